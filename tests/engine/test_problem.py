"""What is decided before any image is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from searches import Notes
from torch import nn

from autoprune.core.notes import forwarded_notes
from autoprune.core.progress import Progress
from autoprune.engine import latency_table
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import PruningProblem, make_problem, prunable_structure
from autoprune.errors import BudgetError
from autoprune.options.origin import Restrictions
from autoprune.options.search import SearchConfig
from autoprune.study.run_directory import RunDirectory

IMAGE = torch.randn(1, 3, 8, 8)
# 48 channels: 8 x 8 x 3 x 3 x 3 MACs each in the first layer, 8 x 8 x 10 in the second.
MACS_PER_CHANNEL = 64 * 27 + 64 * 10


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 10, 1))


def problem(budget: str, **options: Any) -> tuple[PruningProblem, list[str]]:
    notes, images = Notes(), None
    config, run = SearchConfig(budget, **options), RunDirectory("unused")
    context = SearchContext(network(), IMAGE, images, config, run)  # type: ignore[arg-type]
    with forwarded_notes(notes):
        return make_problem(context), notes.notes


@pytest.mark.parametrize(
    ("budget", "loose"),
    [
        ("flops=60G", ["flops=6e+10 MACs"]),
        ("flops=1.0", [f"flops={48 * MACS_PER_CHANNEL} MACs"]),
        ("flops=0.5", []),
        ("flops=0.5,params=10M", ["params=1e+07 parameters"]),
        ("memory=1GB,params=1", ["memory=1e+09", "params="]),
        ("none", []),
    ],
)
def test_bounds_that_bind_nothing_are_told(budget: str, loose: list[str]) -> None:
    told = [note for note in problem(budget)[1] if "bounds nothing" in note]
    assert len(told) == len(loose)
    assert all(any(part in note for note in told) for part in loose)
    assert all("the dense network has" in note for note in told)


@pytest.mark.parametrize(
    ("channels", "favoured", "step"),
    [(20, 16, 16), (15, 16, 8), (7, 16, 4), (3, 64, 1), (1, 2, 1)],
)
def test_a_favoured_multiple_gives_way_to_the_budget(
    channels: int,
    favoured: int,
    step: int,
    stair_table: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stair_table(network(), IMAGE).save(tmp_path / "table.json")
    monkeypatch.setattr(latency_table, "preferred_multiple", lambda layers: favoured)
    budget, table = f"flops={channels * MACS_PER_CHANNEL}", str(tmp_path / "table.json")
    options = {"latency_table": table, "min_keep": {"*": 0.01}}
    found, notes = problem(budget, round_to="auto", **options)
    assert found.space.step == step
    told = [note for note in notes if "out of reach in multiples of" in note]
    assert bool(told) == (step != favoured)
    assert not told or told[-1].endswith(f": {step} is tried")
    if step < favoured:  # who says a number means it
        with pytest.raises(BudgetError, match="out of reach"):
            problem(budget, round_to=favoured, **options)


def test_a_budget_that_nothing_meets_is_refused(stair_table: Any, tmp_path: Path) -> None:
    stair_table(network(), IMAGE).save(tmp_path / "table.json")
    with pytest.raises(BudgetError, match="out of reach: the smallest network"):
        problem("flops=100", round_to="auto", latency_table=str(tmp_path / "table.json"))


def test_heads_are_decided_on_demand() -> None:
    layer, tokens = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8)
    found = {
        decide: prunable_structure(layer.eval(), tokens, Restrictions(decide=decide), Progress())
        for decide in (("channels",), ("channels", "heads"))
    }
    ways = {decide: [group.way for group in one.groups] for decide, one in found.items()}
    assert ways == {
        ("channels",): [None],
        ("channels", "heads"): ["heads", None, "widths", "widths"],
    }
    reasons = {one.reason for one in found["channels",].frozen if one.name.endswith("#heads")}
    assert reasons == {"attention is not cut without decide='channels,heads'"}
