from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.agents.tools.loss_curves import loss_curves, plan_probes


def measured(toy: Any, share: float) -> dict[Any, float]:
    return {p.widths: toy.value(p.widths) for p in plan_probes(toy.problem, share)}


@pytest.mark.parametrize(("trials", "share", "expected"), [(30, 0.5, 13), (7, 0.6, 4), (8, 0.1, 0)])
def test_probes_cut_one_group_each(trials: int, share: float, expected: int, make_toy: Any) -> None:
    """The dense network, then equally many cuts of every group, in network order."""
    toy = make_toy([12, 7, 9])
    dense = toy.problem.space.sizes
    plan = plan_probes(replace(toy.problem, trials=trials), share)
    assert len(plan) == expected <= max(share * trials, 0)
    assert [p.widths for p in plan[:1]] == [dense] * (expected > 0)
    cut = [[g for g in range(3) if p.widths[g] < dense[g]] for p in plan[1:]]
    assert all(len(groups) == 1 for groups in cut) and cut == sorted(cut)
    assert all(p.kind == "probe" and p.base == dense for p in plan)


def test_groups_without_a_choice_are_not_probed(make_toy: Any) -> None:
    toy = make_toy([8, 16], step=8, keep=0.7)
    assert [p.widths for p in plan_probes(toy.problem, 1.0)] == [(8, 16), (8, 8)]


@pytest.mark.parametrize("points", [1, 2, 4])
def test_losses_proportional_to_the_errors_are_known_from_one_probe(
    points: int, make_toy: Any
) -> None:
    toy = make_toy([12, 20])
    values = {w: 3.0 + 5.0 * v for w, v in measured(toy, (2 * points + 1) / 30).items()}
    for curve, truth, levels in zip(
        loss_curves(toy.problem, values), toy.curves, toy.problem.space.levels, strict=True
    ):
        assert np.allclose(curve[levels], 5 * np.asarray(truth)[levels], atol=1e-4)


def test_measured_losses_are_kept(make_toy: Any) -> None:
    toy = make_toy([12, 20], has_errors=False)
    values = measured(toy, 0.4)
    curves = loss_curves(toy.problem, values)
    for widths, value in values.items():
        for curve, size, width in zip(curves, toy.problem.space.sizes, widths, strict=True):
            if width < size:
                assert curve[width] == pytest.approx(-value)


@given(st.data())
def test_curves_fall_to_zero_whatever_was_measured(make_toy: Any, data: Any) -> None:
    toy = make_toy([12, 9], has_errors=data.draw(st.booleans()))
    answers = st.none() | st.floats(-1e6, 1e6)
    drawn = {p.widths: data.draw(answers) for p in plan_probes(toy.problem, 0.7)}
    values = {widths: value for widths, value in drawn.items() if value is not None}
    for curve in loss_curves(toy.problem, values):
        assert np.isfinite(curve).all() and curve[-1] == 0
        tolerance = 1e-9 * (1 + curve.max())
        assert all(a >= b - tolerance for a, b in itertools.pairwise(curve))


def test_an_unmeasured_group_loses_as_usual(make_toy: Any) -> None:
    """Its errors, times what the measured groups lose per error."""
    toy = make_toy([12, 12])
    values = {(12, 12): 0.0, (6, 12): -7 * toy.curves[0][6]}
    curves = loss_curves(toy.problem, values)
    assert np.allclose(curves[1][1:], 7 * np.asarray(toy.curves[1])[1:], atol=1e-3)
