"""The bound on latency: what counts as a miss, and how a miss tightens the bound."""

from __future__ import annotations

import math

import pytest
from loops import SPACE, SumCost

from autoprune.cost.budget import Limit
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.engine.latency_bound import MARGIN, TOLERANCE, is_miss, overshoot, tightened
from autoprune.search_spaces.projection import Constraint, Projection


class Latency(SumCost):
    name = "latency"


def figures(measured: tuple[float, float] | None) -> LatencyFigures:
    return LatencyFigures("torch", "a device", 1, (10.0, 5.0), measured)


@pytest.mark.parametrize(
    ("measured", "limit", "factor"),
    [
        ((8.0, 6.0), Limit(5.0, False), 1.2),
        ((8.0, 6.0), Limit(0.5, True), 1.5),  # a share of what the dense network takes
        ((8.0, 2.0), Limit(0.5, True), 0.5),
        (None, Limit(5.0, False), 0.0),
    ],
)
def test_overshoot(measured: tuple[float, float] | None, limit: Limit, factor: float) -> None:
    assert overshoot(figures(measured), limit) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("factor", "missed"),
    [(0.0, False), (1.0, False), (1 + TOLERANCE, False), (1.011, True), (math.nan, False)],
)
def test_a_miss_exceeds_the_difference_of_two_measurements(factor: float, missed: bool) -> None:
    assert is_miss(factor) == missed


def test_a_miss_tightens_the_bound_on_latency_alone() -> None:
    bounds = [Constraint(SumCost(), 20.0), Constraint(Latency(), 15.0)]
    macs, latency = tightened(Projection(SPACE, bounds), 1.25).constraints
    assert macs.limit == 20.0
    assert latency.limit == pytest.approx(15.0 * MARGIN / 1.25)
