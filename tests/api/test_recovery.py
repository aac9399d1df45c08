"""Searches whose winner learns for a while what the dense network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from searches import FEW, TINY, Notes, classifier, dataset, inputs_of, outputs
from torch import nn

import autoprune
from autoprune.data import Splits
from autoprune.models.demo import load_demo
from autoprune.recovery import distillation, student
from autoprune.study.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "EPOCHS", 2)


def search(
    output: Path, data: Any, model: nn.Module | None = None, **options: Any
) -> autoprune.Run:
    given = {**FEW, **TINY, "recover": 600, "output": output, **options}
    return autoprune.search(model or classifier(), data=data, **given)


@pytest.fixture(scope="module")
def recovered(digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> autoprune.Run:
    """The demo cut to a twentieth and recovered, not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "EPOCHS", 2)
        output = tmp_path_factory.mktemp("runs") / "demo"
        return search(output, digits, load_demo(), budget="flops=0.05")


def test_recovery_is_reported_apart(recovered: autoprune.Run) -> None:
    score, seconds = recovered.result["score"], recovered.result["seconds"]
    assert score["recovered"] > score["pruned"]
    assert seconds["recovery"] > 0
    assert recovered.result["search"]["limits"]["recover"] == 600


def test_both_networks_are_left_behind(recovered: autoprune.Run, digits: Splits) -> None:
    inputs = inputs_of(digits)
    network = autoprune.load_pruned(load_demo(), recovered.path)
    assert torch.equal(outputs(network, inputs), outputs(recovered.model, inputs))
    before = RunDirectory(recovered.path).unrecovered_path
    (recovered.path / "cut").mkdir()
    for name in ("config.toml", "policy.json", "result.json"):
        (recovered.path / "cut" / name).write_bytes((recovered.path / name).read_bytes())
    (recovered.path / "cut" / "pruned.safetensors").write_bytes(before.read_bytes())
    unrecovered = autoprune.load_pruned(load_demo(), recovered.path / "cut")
    dense = outputs(load_demo(), inputs)
    near, far = (
        (outputs(m, inputs) - dense).square().mean() for m in (recovered.model, unrecovered)
    )
    assert near < far


def test_off(tmp_path: Path) -> None:
    run = search(tmp_path / "run", dataset(), recover="off")
    assert run.result["score"]["recovered"] is None
    assert run.result["seconds"]["recovery"] == 0
    assert not RunDirectory(run.path).unrecovered_path.exists()


def test_what_does_not_help_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "RATE", 1e3)
    monkeypatch.setattr(student, "MOVED", float("inf"))
    told = Notes()
    run = search(tmp_path / "run", dataset(), progress=told, recover="20steps")
    plain = search(tmp_path / "plain", dataset(), recover=0)
    assert any("recovery did not help" in note for note in told.notes)
    assert run.result["score"]["recovered"] is None
    assert run.result["score"]["pruned"] == plain.result["score"]["pruned"]
    assert not RunDirectory(run.path).unrecovered_path.exists()


def test_a_finished_run_is_recovered_later(
    digits: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    how: dict[str, Any] = {"model": load_demo(), "budget": "flops=0.05"}
    first = search(tmp_path / "run", digits, recover="off", **how)
    again = search(tmp_path / "run", digits, recover="off", resume=True, **how)
    assert again.result == first.result and "raise trials, time or recover" in caplog.text
    second = search(tmp_path / "run", digits, resume=True, **how)
    assert second.result["score"]["pruned"] == first.result["score"]["pruned"]
    assert second.result["score"]["recovered"] > first.result["score"]["pruned"]
    assert second.result["search"]["trials"] == first.result["search"]["trials"]


def test_a_network_without_gradients_is_left_as_it_was_cut(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = classifier()

        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.inner(x)}

    told = Notes()
    run = search(tmp_path / "run", dataset(), Named(), evaluate=lambda model: 1.0, progress=told)
    assert run.result["score"]["recovered"] is None
    assert any("no recovery: the network runs without gradients" in note for note in told.notes)


def test_the_user_s_own_score_decides(tmp_path: Path) -> None:
    calls: list[nn.Module] = []

    def evaluate(model: nn.Module) -> float:
        calls.append(model)
        return float(len(calls))  # the last network that is judged wins

    run = search(tmp_path / "run", dataset(), evaluate=evaluate)
    score = run.result["score"]
    assert score["recovered"] == score["pruned"] + 1
    assert score["split"] == "user"
