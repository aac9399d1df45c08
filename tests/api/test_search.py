"""A search from end to end, on other people's networks and data."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from searches import FEW, TINY, Notes, classifier, dataset, outputs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autoprune
from autoprune.agents.base import Candidate, SearchProblem, Strategy, Trial
from autoprune.data import Splits
from autoprune.errors import DataError, ModelError, UsageError
from autoprune.models.demo import load_demo
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory


def test_the_dense_network_is_unchanged(digits: Splits, tmp_path: Path) -> None:
    model = load_demo()
    before = copy.deepcopy(model.state_dict())
    run = autoprune.search(model, data=digits, output=tmp_path / "a", **FEW)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    shared = {t.data_ptr() for t in run.model.state_dict().values()}
    assert not shared & {t.data_ptr() for t in model.state_dict().values()}


@pytest.mark.parametrize("strategy", ["random", "bayes"])
def test_equal_seeds_give_equal_runs(strategy: str, tmp_path: Path) -> None:
    options = {**TINY, "strategy": strategy, "trials": 4}
    runs = [
        autoprune.search(classifier(), data=dataset(), output=tmp_path / name, seed=seed, **options)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    same, other = runs[1].result, runs[2].result
    for key in ("widths", "frontier"):
        assert runs[0].result[key] == same[key]
    assert runs[0].result["score"]["kl"] == pytest.approx(same["score"]["kl"], rel=1e-2)
    assert runs[0].result["frontier"] != other["frontier"]


def test_workers_find_what_one_finds(tmp_path: Path) -> None:
    """Random search asks the same whatever it is told; without races every image counts."""
    options = {**TINY, "strategy": "random", "trials": 4, "reward": "accuracy", "seed": 3}
    one, three = (
        autoprune.search(
            classifier(), data=dataset(), output=tmp_path / str(n), workers=n, **options
        ).result
        for n in (1, 3)
    )
    assert three["widths"] == one["widths"] and three["search"]["trials"] == 4
    assert [e["widths"] for e in three["frontier"]] == [e["widths"] for e in one["frontier"]]
    found = [[entry["kl"] for entry in result["frontier"]] for result in (one, three)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_workers_call_evaluate_side_by_side(tmp_path: Path) -> None:
    """The dense network and the judge's choice are scored before the search, one by one."""
    calls, lock = Counter[str](), threading.Lock()

    def evaluate(model: nn.Module) -> float:
        with lock:
            calls["now"] += 1
            calls["most"] = max(calls["most"], calls["now"])
        time.sleep(0.05)  # as where a device does the work
        with lock:
            calls["now"] -= 1
        return -float(sum(p.numel() for p in model.parameters()))

    options = {**TINY, "strategy": "random", "trials": 4}
    run = autoprune.search(
        classifier(), data=dataset(), output=tmp_path, evaluate=evaluate, workers=2, **options
    )
    assert run.result["search"]["failed"] == 0 and calls["most"] == 2


@pytest.mark.parametrize(
    ("data", "signal", "split"),
    [
        (dataset(), "train", "selection"),
        (DataLoader(dataset(), batch_size=7, shuffle=True), "train", "selection"),
        ({"train": dataset(), "val": dataset(20)}, "val", "selection"),
        ({"train": DataLoader(dataset()), "test": dataset(12)}, "train", "test"),
        ({"val": dataset(), "test": DataLoader(dataset(12))}, "train", "test"),
    ],
    ids=["dataset", "loader", "train and val", "train and test", "val and test"],
)
def test_data_in_every_form(data: Any, signal: str, split: str, tmp_path: Path) -> None:
    run = autoprune.search(classifier(), data=data, output=tmp_path / "run", **TINY)
    assert run.result["search"]["signal_split"] == signal
    score = run.result["score"]
    assert score["split"] == split and (split == "selection" or score["samples"] == 12)


def test_data_without_labels(tmp_path: Path) -> None:
    images = TensorDataset(dataset().tensors[0])
    run = autoprune.search(classifier(), data=images, output=tmp_path / "run", **TINY)
    score = run.result["score"]
    assert score["dense"] is score["pruned"] is score["loss"] is None and score["kl"] > 0


def test_example_inputs_of_another_batch_size(tmp_path: Path) -> None:
    image = torch.randn(7, 3, 8, 8)
    for number, example in enumerate((image, (image,), image.double())):
        path = tmp_path / str(number)
        run = autoprune.search(classifier(), example, data=dataset(), output=path, **TINY)
        assert run.result["widths"]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.randn(1, 3, 9, 9), r"have samples of \(3, 9, 9\), but the data's are \(3, 8, 8\)"),
        ((torch.randn(1, 3, 8, 8),) * 2, r"forward\(input\) does not take example_inputs"),
        (["an image"], "example_inputs must be a tensor"),
    ],
    ids=["size", "two", "text"],
)
def test_example_inputs_of_another_form_are_refused(
    example: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        autoprune.search(classifier(), example, data=dataset(), output=tmp_path / "r", **TINY)
    assert not (tmp_path / "r").exists()


class Autoencoder(nn.Module):
    """Its output is an image, not class scores; no bias, no BN."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.middle = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.decode = nn.ConvTranspose2d(12, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.decode(F.relu(self.middle(F.relu(self.encode(x)))))
        return image


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_layers_that_are_sliced_only_are_named(tmp_path: Path) -> None:
    model, progress = classifier(), Notes()
    assert isinstance(model, nn.Sequential)
    model[2] = nn.Conv2d(8, 8, 2, padding="same")
    autoprune.search(model, data=dataset(), output=tmp_path / "run", progress=progress, **TINY)
    (note,) = (text for text in progress.notes if "sliced" in text)
    assert note.startswith("1 of 2 layers that read what is cut are sliced") and ": 2 (" in note
    progress.notes.clear()
    autoprune.search(classifier(), data=dataset(), output=tmp_path / "b", progress=progress, **TINY)
    assert not any("sliced" in text for text in progress.notes)


class Images(Dataset[Tensor]):
    """Images alone."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))


def test_another_task_than_classification(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    images = torch.stack([Images()[i] for i in range(20)])
    target = outputs(model, images)

    def evaluate(network: nn.Module) -> float:
        return -float(F.mse_loss(outputs(network, images), target))

    data = DataLoader(Images(), batch_size=16)
    run = autoprune.search(
        model, data=data, evaluate=evaluate, output=tmp_path / "run", **{**TINY, "trials": 3}
    )
    score = run.result["score"]
    assert (score["metric"], score["dense"]) == ("custom", 0.0)
    assert score["pruned"] == pytest.approx(evaluate(run.model), rel=1e-4) and score["pruned"] < 0
    assert score["kl"] is score["loss"] is score["samples"] is None
    assert all(entry["custom"] < 0 for entry in run.result["frontier"]) and run.result["frontier"]

    added = run.model.state_dict().keys() - model.state_dict().keys()
    assert added == {"middle.bias"}
    again = autoprune.load_pruned(Autoencoder(), run.path)
    torch.testing.assert_close(outputs(again, images), outputs(run.model, images))

    compared = autoprune.search(model, data=data, output=tmp_path / "other", **TINY)
    score = compared.result["score"]  # by how near the outputs are to the dense network's
    assert score["metric"] == "custom" and score["pruned"] < score["dense"] == 0


def test_a_network_with_nothing_to_prune(tmp_path: Path) -> None:
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), nn.Flatten()):
        with pytest.raises(ModelError, match="nothing in this network can be pruned"):
            autoprune.search(model, data=dataset(), output=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["taylor", "tv_separation"])
def test_an_importance_without_its_labels(name: str, tmp_path: Path) -> None:
    images = TensorDataset(torch.randn(40, 3, 8, 8))
    with pytest.raises(UsageError, match=f"the importance '{name}' needs labels"):
        autoprune.search(
            classifier(), data=images, output=tmp_path / "run", importance=name, **TINY
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["bn_scale", "taylor", "l2"])
def test_global_cuts_by_any_importance(name: str, tmp_path: Path) -> None:
    options = {**TINY, "strategy": "global", "importance": name}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    assert run.result["costs"]["pruned"]["flops"] <= 0.5 * run.result["costs"]["dense"]["flops"]


class Picky(nn.Module):
    """Takes any number of channels but four."""

    def __init__(self) -> None:
        super().__init__()
        self.first, _, self.second, _, _, _, self.head = classifier()

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        if hidden.shape[1] == 4:
            raise ValueError("four channels")
        return self.head(F.relu(self.second(hidden)).mean((2, 3)))  # type: ignore[no-any-return]


class FourThenThree(Strategy):
    """Proposes two candidates."""

    def start(self, problem: SearchProblem) -> None:
        self._left = [(3, 4), (4, 4)]

    def ask(self) -> Candidate | None:
        return Candidate(self._left.pop()) if self._left else None

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""


def test_widths_that_the_networks_own_code_refuses_are_a_failed_trial(tmp_path: Path) -> None:
    options = {**TINY, "trials": 2, "strategy": FourThenThree()}
    run = autoprune.search(Picky(), data=dataset(), output=tmp_path / "run", **options)
    with RunDirectory(run.path).stored_study() as study:
        refused, taken = read_trials(study)
    assert refused.error == "the pruned network cannot be run: ValueError: four channels"
    assert taken.value is not None and [w for w, _ in run.result["widths"].values()] == [3, 4]
