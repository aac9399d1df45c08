"""Searches that leave alone what the user fixed, and take wrapped networks as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import TINY, Notes, classifier, dataset
from torch import Tensor, nn

import autoprune
from autoprune.errors import ModelError, UsageError
from autoprune.recovery import distillation


class First:
    """A reward for whatever is measured first: a recovered network is asked about before."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, measurement: Any) -> float:
        self.asked += 1
        return -float(self.asked)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "EPOCHS", 4)


def network() -> Any:
    """A body with BN, and a head whose last layer takes the mean of bins, as detectors do."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 10, 3, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
    return model.eval()


def search(output: Path, model: nn.Module, **options: Any) -> autoprune.Run:
    given = {**TINY, "budget": "params=0.8", "recover": 600, "output": output / "run", **options}
    return autoprune.search(model, data=dataset(120), **given)


def changed(run: autoprune.Run, dense: nn.Module) -> set[str]:
    """Return the tensors that differ from the dense network's, in shape or value."""
    small, before = run.model.state_dict(), dense.state_dict()
    return {
        name
        for name, tensor in before.items()
        if small[name].shape != tensor.shape or not torch.equal(small[name], tensor)
    }


@pytest.mark.parametrize("kind", ["one-shot", "one-shot+batchnorm"])
@pytest.mark.parametrize("pattern", ["8", "4", "3", "1"])
def test_excluded_modules_come_back_as_they_were(pattern: str, kind: str, tmp_path: Path) -> None:
    clearly = math.inf if "batchnorm" in kind else 0.0
    dense = network()
    options = {"exclude": pattern, "budget": "params=0.97", "reward": First()}
    options["engine"] = {"repair": {"clearly_better": clearly}}
    run = search(tmp_path, copy.deepcopy(dense), **options)
    assert run.result["judge"] == kind and run.result["score"]["recovered"] is not None
    inside = {f"{pattern}.{name}" for name in dense[int(pattern)].state_dict()}
    assert changed(run, dense) and not changed(run, dense) & inside


def test_frozen_weights_are_sliced_and_keep_their_values(tmp_path: Path) -> None:
    dense, progress = network(), Notes()
    dense[3].requires_grad_(False)
    dense[4].requires_grad_(False)
    given = copy.deepcopy(dense)
    run = search(tmp_path, given, progress=progress, reward=First())
    assert run.result["score"]["recovered"] is not None
    sliced = autoprune.apply_policy(dense, run.policy).state_dict()
    small = run.model.state_dict()
    for name in ("3.weight", "3.bias", "4.weight", "4.bias"):
        assert torch.equal(small[name], sliced[name])
    assert not torch.equal(small["8.weight"], sliced["8.weight"])
    flags = [p.requires_grad for p in dense.parameters()]
    for model in (given, run.model):
        assert [p.requires_grad for p in model.parameters()] == flags
    (note,) = (text for text in progress.notes if "frozen" in text)
    assert note.startswith("1,116 of 1,546 parameters are frozen (requires_grad=False)")
    assert note.endswith(": 3, 4; train_frozen=True lets them change")


def test_frozen_weights_change_where_that_is_allowed(tmp_path: Path) -> None:
    dense, progress = network().requires_grad_(False), Notes()
    run = search(tmp_path, copy.deepcopy(dense), train_frozen=True, progress=progress)
    sliced = autoprune.apply_policy(dense, run.policy).state_dict()
    assert not torch.equal(run.model.state_dict()["3.weight"], sliced["3.weight"])
    assert not any(p.requires_grad for p in run.model.parameters())
    assert not [text for text in progress.notes if "frozen" in text]


def test_a_network_frozen_as_a_whole_is_cut_and_says_why_nothing_learns(tmp_path: Path) -> None:
    dense, progress = network().requires_grad_(False), Notes()
    run = search(tmp_path, copy.deepcopy(dense), progress=progress)
    sliced = autoprune.apply_policy(dense, run.policy)
    for (name, p), own in zip(sliced.named_parameters(), run.model.parameters(), strict=True):
        assert torch.equal(p, own), name
    assert any("no recovery: every parameter is frozen" in text for text in progress.notes)


def test_excluding_everything_is_said(tmp_path: Path) -> None:
    message = "nothing in this network can be pruned: excluded; .*; exclude fewer layers"
    with pytest.raises(ModelError, match=message):
        search(tmp_path, network(), exclude="*")
    assert not (tmp_path / "run").exists()


def test_outputs_alone_can_be_excluded(tmp_path: Path) -> None:
    run = search(tmp_path, network(), exclude_outputs="3", recover="off")
    assert run.model[3].out_channels == 12 and run.model[3].in_channels < 10


def test_a_run_of_an_older_version_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    """It excluded outputs and trained what was frozen; resuming says so, or is refused."""
    model = network()
    model[8].requires_grad_(False)
    begun = {"exclude_outputs": "3", "train_frozen": True, "recover": "off", "strategy": "random"}
    search(tmp_path, copy.deepcopy(model), **begun)
    config = tmp_path / "run" / "config.toml"
    lines = config.read_text().replace("exclude = []\n", "").replace("exclude_outputs", "exclude")
    config.write_text(lines.replace("train_frozen = true\n", ""))
    more, progress = {"resume": True, "trials": 2}, Notes()
    with pytest.raises(UsageError, match=r"with exclude=\['3'\]: .* exclude is exclude_outputs"):
        search(tmp_path, model, **{**begun, "exclude_outputs": [], "exclude": "3", **more})
    run = search(tmp_path, copy.deepcopy(model), progress=progress, **{**begun, **more})
    assert run.result["search"]["trials"] == 2 and run.model[3].in_channels < 10
    assert any("goes on as it was begun (by a version" in text for text in progress.notes)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: torch.compile(model, backend="eager")],
    ids=["parallel", "compiled"],
)
def test_a_wrapped_network_is_searched_without_its_wrapper(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    progress = Notes()
    options = {**TINY, "output": tmp_path / "run", "progress": progress}
    run = autoprune.search(wrap(classifier()), data=dataset(), **options)
    assert isinstance(run.model, nn.Sequential)
    assert any(text.endswith("is searched, and returned without it") for text in progress.notes)
    again = autoprune.load_pruned(wrap(classifier()), run.path)
    images: Tensor = dataset().tensors[0]
    with torch.no_grad():
        assert torch.equal(again(images), run.model(images))
    assert autoprune.apply_policy(wrap(classifier()), run.policy)[0].out_channels < 8
