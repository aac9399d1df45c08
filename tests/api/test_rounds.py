"""A search that cuts and fine-tunes in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from searches import dataset
from torch import nn

import autoprune
from autoprune.core.policy import PruningPolicy
from autoprune.data import Splits
from autoprune.engine import repeat as module
from autoprune.models.demo import load_demo
from autoprune.study.run_directory import RunDirectory
from autoprune.testing.small_networks import head

QUICK: dict[str, Any] = {
    "budget": "flops=0.36", "rounds": 2, "finetune_epochs": 0.2, "trials": 1, "recover": "off",
    "strategy": "uniform", "calibration_samples": 64, "search_samples": 64,
    "selection_samples": 64, "report": False,
}  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


def test_rounds_end_in_one_run_and_go_on(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round cuts what the first one left, and the dense network teaches in both."""
    output = tmp_path / "run"

    def killed(*args: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module, "embedded", killed)
        with pytest.raises(Killed):
            autoprune.search(load_demo(), data=digits, output=output, **QUICK)
    done = autoprune.search(load_demo(), data=digits, output=output, resume=True, **QUICK)
    costs = done.result["costs"]
    assert costs["pruned"]["flops"] <= 0.36 * costs["dense"]["flops"]
    (first,) = done.result["rounds"]
    assert first["budget"] == "flops=0.6" and first["score"]["finetuned"] is not None
    assert done.result["finetune"]["steps"] > 0
    assert done.result["score"]["dense"] == first["score"]["dense"]
    earlier = autoprune.load_pruned(load_demo(), output / "rounds" / "1")
    state, own = earlier.state_dict(), done.model.state_dict()
    assert sum(v.numel() for v in own.values()) < sum(v.numel() for v in state.values())
    before = PruningPolicy.load(output / "rounds" / "1" / "policy.json")
    assert all(set(done.policy.kept[name]) <= set(kept) for name, kept in before.kept.items())
    again = autoprune.search(load_demo(), data=digits, output=output, resume=True, **QUICK)
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(again.model(inputs), autoprune.load_pruned(load_demo(), output)(inputs))


def test_what_rounds_found_is_known_before_the_last_fine_tuning(
    digits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tune, calls = module.finetune_run, []

    def killed_at_last(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return tune(*args)

    given: dict[str, Any] = {"data": digits, "output": tmp_path / "run", **QUICK}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "finetune_run", killed_at_last)
        autoprune.search(load_demo(), **given)
    (first,) = RunDirectory(tmp_path / "run").load_result()["rounds"]
    assert first["budget"] == "flops=0.6"
    with caplog.at_level("WARNING", "autoprune"):
        done = autoprune.search(load_demo(), resume=True, **{**given, "trials": 5})
    assert "run' is finished, and its network is being fine-tuned: trials, time" in caplog.text
    assert done.result["rounds"] == [first] and done.result["finetune"]["steps"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finetune_epochs": None}, "say for how long, with finetune_epochs=2"),
        ({"rounds": 0}, "rounds must be above zero"),
        ({"budget": None, "max_drop": 1}, "approach a budget step by step"),
        ({"decide": "channels,depth"}, "decide channels alone"),
    ],
)
def test_mistakes_are_one_line(
    digits: Splits, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(autoprune.AutopruneError, match=message):
        autoprune.search(load_demo(), data=digits, output=tmp_path / "run", **{**QUICK, **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), head(8)),
        (nn.Conv2d(3, 8, 3), head(8)[:2], nn.LayerNorm(8), nn.Linear(8, 4)),
    ],
)
def test_norms_over_channels_that_are_cut_are_refused(
    layers: tuple[nn.Module, ...], tmp_path: Path
) -> None:
    """In the dense network's shape they would see the channels that are gone, as zeros."""
    model = nn.Sequential(*layers)
    with pytest.raises(autoprune.AutopruneError, match=r"those of '0' pass (group|layer)_norm"):
        autoprune.search(model, data=dataset(), output=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()
