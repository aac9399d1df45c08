"""The public functions from end to end, on the demo and on other people's networks."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autoprune
from autoprune import pipeline
from autoprune.data import Splits, load_splits
from autoprune.demo import digits_cnn, load_demo
from autoprune.errors import (
    AutopruneError,
    BudgetError,
    DataError,
    ModelError,
    RunError,
    UsageError,
)
from autoprune.evaluation.measurement import Measurement
from autoprune.progress import Progress
from autoprune.study.run_directory import RunDirectory

FEW: dict[str, Any] = {
    "calibration_samples": 64,
    "search_samples": 64,
    "selection_samples": 64,
    "budget": "flops=0.5",
    "trials": 3,
}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits("digits")


@pytest.fixture(scope="module")
def demo(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    """One finished search on the demo, not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "demo"
    return autoprune.search(load_demo(), data=digits, output=output, seed=1, **FEW)


def inputs_of(digits: Splits, count: int = 50) -> Tensor:
    assert digits.test is not None
    return digits.test.take(range(count)).inputs


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(inputs)
    return result


# ------------------------------------------------------------------------------ what is left behind


def test_files(demo: autoprune.Run) -> None:
    names = {path.name for path in demo.path.iterdir()}
    assert names == {"config.toml", "policy.json", "pruned.safetensors", "result.json", "study.db"}
    assert json.loads((demo.path / "result.json").read_text()) == demo.result


NUMBER = (int, float)
NOTHING = type(None)
SHAPE: dict[str, Any] = {
    "version": int,
    "strategy": str,
    "budget": str,
    "reward": str,
    "seed": int,
    "agent_from": NOTHING,
    "costs": {
        "dense": {"flops": int, "params": int, "latency_ms": float, "memory_bytes": int},
        "pruned": {"flops": int, "params": int, "latency_ms": float, "memory_bytes": int},
        "latency": {"predicted_ms": NOTHING, "measured_ms": float, "backend": str, "device": str},
    },
    "score": {
        "metric": str,
        "dense": float,
        "pruned": float,
        "recovered": NOTHING,
        "split": str,
        "samples": int,
        "kl": float,
        "loss": float,
    },
    "search": {
        "trials": int,
        "evaluations": int,
        "image_forwards": int,
        "failed": int,
        "seconds": NUMBER,
        "best_value": float,
        "signal_split": str,
    },
    "seconds": {
        **dict.fromkeys(["structure", "statistics", "paths", "judge", "surgery"], NUMBER),
        **dict.fromkeys(["batchnorm", "scoring", "strategy", "finalists"], NUMBER),
        "recovery": NOTHING,
    },
    "widths": {},
    "frontier": list,
}


def check_shape(found: Any, shape: Any, where: str) -> None:
    """Every documented key is there, with its type; keys may be added."""
    if isinstance(shape, dict):
        assert shape.keys() <= found.keys(), where
        for key, inner in shape.items():
            check_shape(found[key], inner, f"{where}.{key}")
    else:
        assert isinstance(found, shape), f"{where}: {found!r}"


def test_result_is_as_documented(demo: autoprune.Run) -> None:
    check_shape(demo.result, SHAPE, "result")
    search, score, costs = (demo.result[key] for key in ("search", "score", "costs"))
    assert (search["trials"], search["failed"], search["signal_split"]) == (3, 0, "val")
    assert search["evaluations"] >= 3 and search["image_forwards"] > 0
    assert (score["metric"], score["split"], score["samples"]) == ("top1", "test", 300)
    assert score["dense"] > 0.9 and 0 <= score["pruned"] <= 1 and score["kl"] > 0
    assert costs["pruned"]["flops"] <= 0.5 * costs["dense"]["flops"]
    assert costs["latency"]["measured_ms"] == costs["pruned"]["latency_ms"] > 0
    for kept, size in demo.result["widths"].values():
        assert 1 <= kept <= size
    for entry in demo.result["frontier"]:
        assert entry.keys() == {"costs", "kl", "widths"}
        assert entry["widths"].keys() == demo.result["widths"].keys()


def test_costs_and_scores_are_those_of_the_model(
    demo: autoprune.Run, digits: Splits, count_macs: Callable[[nn.Module, Tensor], float]
) -> None:
    inputs = inputs_of(digits, 300)
    costs, score = demo.result["costs"]["pruned"], demo.result["score"]
    assert costs["flops"] == count_macs(demo.model, inputs)
    assert costs["params"] == sum(p.numel() for p in demo.model.parameters())
    assert digits.test is not None
    truth = digits.test.take(range(300)).targets
    top1 = (outputs(demo.model, inputs).argmax(1) == truth).float().mean()
    assert score["pruned"] == pytest.approx(float(top1), abs=1e-6)
    assert not demo.model.training


# ----------------------------------------------------------------------------------- loaded again


def test_a_fresh_process_loads_the_same_network(demo: autoprune.Run, digits: Splits) -> None:
    """No pickle is read on the way."""
    inputs = inputs_of(digits)
    torch.save(inputs, demo.path.parent / "inputs.pt")
    script = f"""
import pickle, torch, autoprune
from autoprune.demo import digits_cnn
inputs = torch.load({str(demo.path.parent / "inputs.pt")!r}, weights_only=True)
def refuse(*args, **kwargs):
    raise AssertionError("a pickle was read")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
model = autoprune.load_pruned(digits_cnn(), {str(demo.path)!r})
assert not model.training
with torch.no_grad():
    print(model(inputs).flatten().tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout)).reshape(len(inputs), -1)
    torch.testing.assert_close(found, outputs(demo.model, inputs))


def test_policy_alone_gives_the_structure(demo: autoprune.Run, digits: Splits) -> None:
    dense = load_demo()
    for policy in (demo.policy, demo.path / "policy.json", str(demo.path / "policy.json")):
        small = autoprune.apply_policy(dense, policy)
        shapes = {name: t.shape for name, t in small.state_dict().items()}
        assert shapes == {name: t.shape for name, t in demo.model.state_dict().items()}
        outputs(small, inputs_of(digits))
    for name, group in demo.policy.groups.items():
        kept = dense.get_parameter(f"{name}.weight")[list(group.kept)]
        assert kept.shape[0] == small.get_parameter(f"{name}.weight").shape[0]


def test_another_network_is_refused(demo: autoprune.Run) -> None:
    for other in (nn.Linear(2, 2), nn.Sequential(digits_cnn())):
        with pytest.raises(ModelError, match="made for another network"):
            autoprune.load_pruned(other, demo.path)


def test_unfinished_runs_are_refused(tmp_path: Path) -> None:
    for call in (
        lambda: autoprune.load_pruned(digits_cnn(), tmp_path),
        lambda: autoprune.apply_policy(digits_cnn(), tmp_path / "policy.json"),
    ):
        with pytest.raises(RunError):
            call()


# ----------------------------------------------------------------------------- one search, repeated


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


def test_interrupted_search_is_resumed(tmp_path: Path) -> None:
    calls = 0

    def reward(found: Measurement) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        assert found.scores.kl is not None
        return -found.scores.kl

    def search(folder: str, **how: Any) -> autoprune.Run:
        options = {**TINY, "strategy": "bayes", "trials": 5, "output": tmp_path / folder}
        return autoprune.search(classifier(), data=dataset(), **options, **how)

    with pytest.raises(KeyboardInterrupt):
        search("run", reward=reward)
    with pytest.raises(RunError, match="finish it with --resume"):
        autoprune.load_pruned(classifier(), tmp_path / "run")
    resumed, whole = search("run", reward=reward, resume=True), search("whole")
    assert resumed.result["widths"] == whole.result["widths"]
    assert resumed.result["search"]["trials"] == 5


def test_a_resumed_search_keeps_its_options(demo: autoprune.Run, digits: Splits) -> None:
    for changed in ({"seed": 2}, {"budget": "flops=0.6"}, {"exclude": "stem"}, {"sampler": "gp"}):
        options = {**FEW, "seed": 1, **changed}
        with pytest.raises(UsageError, match=f"cannot resume .* with {next(iter(changed))}="):
            autoprune.search(load_demo(), data=digits, output=demo.path, resume=True, **options)


def test_a_finished_search_goes_on_only_with_higher_limits(tmp_path: Path) -> None:
    def search(trials: int, time: float | None = None, resume: bool = True) -> autoprune.Run:
        options = {**TINY, "strategy": "random", "trials": trials, "output": tmp_path / "run"}
        return autoprune.search(classifier(), data=dataset(), time=time, resume=resume, **options)

    first = search(3, 600.0, resume=False).result
    for limits in ((3, 600.0), (2, 600.0), (3, 300.0)):
        with pytest.raises(RunError, match=r"is finished \(3 trials\): raise --trials or --time"):
            search(*limits)
    second = search(5, 600.0).result
    assert (second["search"]["trials"], second["search"]["limits"]["trials"]) == (5, 5)
    assert second["search"]["seconds"] > first["search"]["seconds"]
    for stage in ("structure", "statistics", "surgery", "scoring", "finalists"):
        assert second["seconds"][stage] > first["seconds"][stage], stage
    with pytest.raises(RunError, match="is finished"):
        search(5, 600.0)
    assert search(5, 1200.0).result["search"]["trials"] == 5


def test_the_judge_of_the_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *classifier()[2:])
    options = {**TINY, "strategy": "random", "output": tmp_path / "run"}
    monkeypatch.setattr(pipeline, "CLEARLY", math.inf)  # any other judge is preferred
    first = autoprune.search(model, data=dataset(), **options)
    monkeypatch.setattr(pipeline, "CLEARLY", 0.0)
    again = autoprune.search(model, data=dataset(), resume=True, **{**options, "trials": 2})
    assert first.result["judge"] == again.result["judge"] == "one-shot+batchnorm"


def test_a_run_goes_on_where_it_was_begun(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    run = autoprune.search(classifier(), data=dataset(), **options)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda:0"'))
    with pytest.raises(UsageError, match="with device='cpu': it was begun with 'cuda:0'"):
        autoprune.search(classifier(), data=dataset(), resume=True, **options)


def test_an_option_left_out_on_resuming_is_a_change(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "bayes", "output": tmp_path / "run"}
    autoprune.search(classifier(), data=dataset(), sampler="cmaes", **options)
    with pytest.raises(UsageError, match=r"cannot resume .* sampler"):
        autoprune.search(classifier(), data=dataset(), resume=True, **options)


def test_taken_directories_are_refused(demo: autoprune.Run, digits: Splits, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for taken in (demo.path, tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="choose another name"):
            autoprune.search(load_demo(), data=digits, output=taken, **FEW)


# -------------------------------------------------------------------------------- data and networks


def dataset(rows: int = 60, classes: int = 4, shape: Sequence[int] = (3, 8, 8)) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, *shape, generator=generator)
    return TensorDataset(images, torch.arange(rows) % classes)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


TINY: dict[str, Any] = {"budget": "flops=0.5", "trials": 1, "strategy": "uniform"}


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
    example = torch.randn(7, 3, 8, 8)
    run = autoprune.search(classifier(), example, data=dataset(), output=tmp_path / "r", **TINY)
    assert run.result["widths"]


@pytest.mark.parametrize(
    "example", [torch.randn(1, 3, 9, 9), (torch.randn(1, 3, 8, 8),)], ids=["size", "tuple"]
)
def test_example_inputs_of_another_shape_are_refused(example: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="example_inputs have samples of"):
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
    assert score["kl"] is score["loss"] is score["samples"] is None and run.result["frontier"] == []

    added = run.model.state_dict().keys() - model.state_dict().keys()
    assert added == {"middle.bias"}
    again = autoprune.load_pruned(Autoencoder(), run.path)
    torch.testing.assert_close(outputs(again, images), outputs(run.model, images))

    with pytest.raises(ModelError, match="evaluate=callable"):
        autoprune.search(model, data=data, output=tmp_path / "other", **TINY)


def test_a_network_with_nothing_to_prune(tmp_path: Path) -> None:
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), nn.Flatten()):
        with pytest.raises(ModelError, match="nothing in this network can be pruned"):
            autoprune.search(model, data=dataset(), output=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------- users' mistakes


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"budget": "flops=0.001"}, BudgetError, "out of reach"),
        ({"budget": "flop=0.5"}, BudgetError, "did you mean 'flops'"),
        ({"budget": "latency=5ms"}, BudgetError, "no cost model for 'latency'"),
        ({"budget": 0.5}, UsageError, "budget must be a text"),
        ({"budget": None}, BudgetError, "the reward 'kl' needs a budget"),
        ({"budget": None, "reward": "accuracy_flops"}, UsageError, "'uniform' needs a budget"),
        ({"reward": "accuracy_latency"}, UsageError, "needs a latency cost"),
        ({"reward": "acuracy"}, UsageError, "unknown reward 'acuracy'; did you mean 'accuracy'"),
        ({"reward": 3}, UsageError, "reward must be a function or the name of one, but got 3"),
        ({"budget": {"flops": 2}}, BudgetError, "flops=0.02 for 2 percent, or a unit"),
        ({"strategy": "bayse"}, UsageError, "did you mean 'bayes'"),
        ({"importance": "obd"}, UsageError, "did you mean 'obs'"),
        ({"trial": 3}, UsageError, "unknown option 'trial'; did you mean 'trials'"),
        ({"trials": 0}, UsageError, "trials must be above zero"),
        ({"exclude": "nowhere"}, UsageError, "no layer matches 'nowhere'"),
        ({"round_to": 0}, UsageError, "round-to must be at least 1"),
        ({"search_samples": 0}, UsageError, "search needs at least 1 sample"),
    ],
    ids=str,
)
def test_mistakes_are_one_clear_line_and_leave_nothing(
    changed: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        autoprune.search(
            classifier(), data=dataset(), output=tmp_path / "run", **{**TINY, **changed}
        )
    assert "\n" not in str(caught.value)


def test_swapped_arguments_and_images_of_another_kind(demo: autoprune.Run, tmp_path: Path) -> None:
    swapped: Any = (str(demo.path), classifier())
    for call in (autoprune.load_pruned, autoprune.apply_policy):
        with pytest.raises(UsageError, match=r"model, must be a torch\.nn\.Module, but is a str"):
            call(*swapped)
    with pytest.raises(ModelError, match=r"\(1, 1, 8, 8\).* layer '0' takes 3 channels") as caught:
        data = dataset(shape=(1, 8, 8))
        autoprune.search(classifier(), data=data, output=tmp_path / "run", **TINY)
    assert "\n" not in str(caught.value)


def test_progress_is_printed_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (False, True):
        output = tmp_path / f"{progress}"
        autoprune.search(classifier(), data=dataset(), output=output, progress=progress, **TINY)
        found = capsys.readouterr()
        assert found.out == "" and ("search: 1 of 1, best reward" in found.err) == progress


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="outside the network's 4 classes"):
        autoprune.search(classifier(), data=dataset(classes=9), output=tmp_path / "run", **TINY)


# ------------------------------------------------------------------------------------------ rewards


def lean(found: Measurement) -> float:
    assert found.scores.top1 is not None
    return found.scores.top1 - found.costs["params"] / found.dense_costs["params"]


def stored(run: Path) -> dict[str, Any]:
    return RunDirectory(run).load_config()


@pytest.mark.parametrize(
    ("given", "name"),
    [({"reward": "accuracy_flops"}, "accuracy_flops"), ({"reward": lean, "budget": None}, None)],
    ids=["built-in", "own"],
)
def test_no_budget(given: dict[str, Any], name: str | None, tmp_path: Path) -> None:
    options = {"strategy": "bayes", "trials": 6, "output": tmp_path / "run", **given}
    run = autoprune.search(classifier(), data=dataset(), **options)
    name = name or f"{__name__}:lean"
    assert (run.result["budget"], run.result["reward"]) == (None, name)
    assert (stored(run.path)["budget"], stored(run.path)["reward"]) == ("none", name)
    kept = sum(kept for kept, _ in run.result["widths"].values())
    assert kept < sum(size for _, size in run.result["widths"].values())
    autoprune.search(classifier(), data=dataset(), resume=True, **{**options, "trials": 7})


def test_a_reward_of_ones_own_needs_a_budget_or_none_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="budget is missing"):
        autoprune.search(classifier(), data=dataset(), reward=lean, output=tmp_path / "run")


def test_resuming_with_another_reward_is_refused(tmp_path: Path) -> None:
    options = {**TINY, "output": tmp_path / "run"}
    autoprune.search(classifier(), data=dataset(), reward=lean, **options)
    for other in (None, "accuracy", lambda found: 0.0):
        with pytest.raises(
            UsageError, match=r"cannot resume .* with reward=.*begun with '.*:lean'"
        ):
            autoprune.search(classifier(), data=dataset(), reward=other, resume=True, **options)


@pytest.mark.parametrize(
    ("more", "lacking"),
    [({}, "the data has no labels"), ({"evaluate": lambda model: 1.0}, "evaluate gives none")],
    ids=["no labels", "another task"],
)
def test_rewards_on_accuracy_need_labels(
    more: dict[str, Any], lacking: str, tmp_path: Path
) -> None:
    images = TensorDataset(dataset().tensors[0])
    for reward in ("accuracy", "accuracy_flops"):
        options = {**TINY, **more, "reward": reward, "output": tmp_path / "run"}
        with pytest.raises(UsageError, match=f"'{reward}' needs top-1 accuracy, and {lacking}"):
            autoprune.search(classifier(), data=images, **options)
    assert not (tmp_path / "run").exists()


class Faulty:
    """−parameters, but raises from one call to another, counted from 1."""

    def __init__(self, first: int, last: int) -> None:
        self.calls, self.first, self.last = 0, first, last

    def __call__(self, found: Measurement) -> float:
        self.calls += 1
        if self.first <= self.calls <= self.last:
            raise ValueError("my mistake")
        return -found.costs["params"]


def test_a_mended_reward_goes_on(tmp_path: Path) -> None:
    options = {"strategy": "random", "trials": 10, "budget": None, "output": tmp_path / "run"}
    with pytest.raises(AutopruneError, match=r"5 trials in a row failed.*Faulty.*my mistake.*kept"):
        autoprune.search(classifier(), data=dataset(), reward=Faulty(4, 99), **options)
    assert not (tmp_path / "run" / "result.json").exists()
    mended = Faulty(0, 0)
    run = autoprune.search(classifier(), data=dataset(), reward=mended, resume=True, **options)
    search = run.result["search"]
    assert (search["trials"], search["failed"]) == (10, 0)
    assert mended.calls == (10 - 3) + 3 * 2  # every finalist is built in two ways


def test_single_failures_are_counted(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 4, "output": tmp_path / "run"}
    run = autoprune.search(classifier(), data=dataset(), reward=Faulty(2, 3), **options)
    assert (run.result["search"]["trials"], run.result["search"]["failed"]) == (4, 2)


def test_finalists_whose_reward_fails_drop_out(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    options = {**TINY, "output": tmp_path / "run", "progress": Notes()}
    with pytest.raises(ModelError, match=r"every finalist failed .*Faulty.* raised .*my mistake"):
        autoprune.search(classifier(), data=dataset(), reward=Faulty(2, 3), **options)
    assert not (tmp_path / "run" / "result.json").exists()
    run = autoprune.search(
        classifier(), data=dataset(), reward=Faulty(1, 1), resume=True, **options
    )
    assert run.result["reconstruction"] == "sequential"  # the judge's own repair came first
    dropped = [note for note in notes if note.startswith("a finalist drops out: the reward ")]
    assert len(dropped) == 3


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


def test_time_ends_a_search(digits: Splits, tmp_path: Path) -> None:
    options = {**FEW, "trials": 100_000, "time": 3.0, "strategy": "random"}
    run = autoprune.search(load_demo(), data=digits, output=tmp_path / "run", **options)
    assert 0 < run.result["search"]["trials"] < 1000
    assert math.isfinite(run.result["search"]["best_value"])


def test_time_that_is_over_at_once_leaves_one_trial_and_one_finalist(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 100, "time": 1e-3}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    done = run.result["search"]
    assert (done["trials"], done["evaluations"]) == (1, 1 + 2 + 1)  # two measured by the judges
    assert run.result["reconstruction"] == run.result["judge"]
    assert json.loads((run.path / "result.json").read_text()) == run.result
