"""What is written down of every group, against a network whose costs are found by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost import cost_models
from autoprune.engine.group_facts import CURVE_WIDTHS, LARGEST_ORDER, describe_groups
from autoprune.importance import Ranking
from autoprune.search_spaces.keep_ratio import search_space
from autoprune.structure.tracing.trace import trace


def problem(step: int = 1, wide: int = 6) -> Any:
    """A 4-pixel image: MACs are 4·3·4 = 48, 4·4·wide and 4·wide·2."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, wide, 1), nn.Conv2d(wide, 2, 1))
    structure = trace(model, torch.randn(1, 3, 2, 2))
    space = search_space(structure, 0.25, step)
    return SimpleNamespace(structure=structure, space=space, costs=cost_models(structure))


def ranking(size: int, losses: bool = True) -> Ranking:
    errors = tuple(float(size - width) for width in range(size + 1))
    own = tuple(10 * one for one in errors) if losses else None
    return Ranking(tuple(reversed(range(size))), errors, losses=own)


def test_shares_steps_and_curves() -> None:
    found = describe_groups(problem(), [ranking(4), ranking(6)], (3, 6), [(2, 5)])
    first, second = found.groups
    assert (first.name, first.size, first.lowest, first.width) == ("0", 4, 1, 3)
    assert (first.members.producers, first.members.consumers) == (["0.weight"], ["1.weight"])
    # 48 + 96 and 96 + 48 of 192 MACs.
    assert (first.share["flops"], second.share["flops"]) == (0.75, 0.75)
    assert first.order == [3, 2, 1, 0]
    assert first.curve.widths == [1, 2, 3, 4]
    assert (first.curve.errors, first.curve.losses) == ([3, 2, 1, 0], [30, 20, 10, 0])
    # Beside a winner of 3 and 6 channels: 12·2 + 8·6 + 48 and 12·4 + 16·6 + 48 MACs.
    steps = [(step.width, step.costs["flops"]) for step in first.steps]
    assert steps == [(2, 24.0 + 48.0 + 48.0), (4, 48.0 + 96.0 + 48.0)]
    assert [step.width for step in second.steps] == [5]
    assert [(one.name, one.size) for one in found.frozen] == [("2", 2)] and found.frozen[0].reason


def test_steps_are_allowed_widths() -> None:
    (_, second) = describe_groups(problem(step=3), [ranking(4), ranking(6)], (4, 3), []).groups
    assert [step.width for step in second.steps] == [6]
    assert second.curve.widths == [3, 6]


def test_wide_groups_stay_small() -> None:
    size = LARGEST_ORDER + 1
    winner = (4, 700)
    found = describe_groups(problem(wide=size), [ranking(4), ranking(size)], winner, [(4, 801)])
    wide = found.groups[1]
    assert wide.order is None
    assert len(wide.curve.widths) <= CURVE_WIDTHS + 4
    assert {699, 700, 701, 801, wide.lowest, size} <= set(wide.curve.widths)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_figures_that_are_none_are_left_out(wrong: float) -> None:
    """A criterion may be the user's."""
    odd = Ranking((0, 1, 2, 3), (wrong,) * 5, losses=(1.0,) * 5)
    first = describe_groups(problem(), [odd, ranking(6, losses=False)], (3, 6), []).groups[0]
    assert first.curve.errors is None and first.curve.losses == [1.0] * 4
