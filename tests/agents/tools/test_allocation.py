from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoprune.agents.tools.allocation import AllocationConfig, allocate
from autoprune.agents.tools.moves import error
from autoprune.search_spaces.greedy import least_sum


def solved(toy: Any) -> tuple[Any, float]:
    """Return widths and their value by the toy's true curves, by greed and then in steps."""
    curves = [np.asarray(curve) for curve in toy.curves]
    start = least_sum(toy.problem.projection, curves)
    widths = allocate(toy.problem.projection, curves, start, AllocationConfig())
    assert toy.value(widths) == pytest.approx(-error(curves, widths))
    assert toy.value(widths) >= toy.value(start)
    return widths, toy.value(widths)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("sizes", [[5], [8, 8, 8], [12, 7, 9], [4, 20, 6]], ids=str)
def test_near_the_enumerated_optimum(sizes: list[int], keep: float, make_toy: Any) -> None:
    toy = make_toy(sizes, keep=keep)
    widths, value = solved(toy)
    assert toy.problem.space.contains(widths) and toy.problem.projection.fits(widths)
    scale = -toy.value(toy.problem.space.lowest)
    assert toy.optimum() - value <= 0.02 * scale


def test_every_kind_of_problem(toy: Any) -> None:
    widths, value = solved(toy)
    assert toy.problem.projection.fits(widths)
    scale = -toy.value(toy.problem.space.lowest)
    assert toy.optimum() - value <= 0.02 * scale + 1e-12


def test_a_cost_that_is_a_maximum(make_toy: Any, widest: Any, chain: Any) -> None:
    for costs in ([widest], [widest, chain]):
        toy = make_toy([16, 16, 16], keep=0.5, costs=costs)
        assert toy.problem.projection.fits(solved(toy)[0])
    toy = make_toy([16, 12, 16], keep=0.5, costs=[widest])
    assert solved(toy)[0] == (8, 8, 8)
