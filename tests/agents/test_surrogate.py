"""The regression that leads a search, and what the search finds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from autoprune.agents.global_ranking import warm_starts
from autoprune.agents.response import Response
from autoprune.agents.surrogate import SurrogateStrategy
from autoprune.policy import Widths


def random_widths(problem: Any, count: int, seed: int = 0) -> list[Widths]:
    random = np.random.default_rng(seed)
    levels = problem.space.levels
    return [tuple(int(random.choice(own)) for own in levels) for _ in range(count)]


def test_the_regression_ranks_what_multiplies(make_toy: Any) -> None:
    """A loss that is a product over groups is additive in its logarithm: ranked without a fault."""
    problem = make_toy([16, 12, 10, 14]).problem

    def value(widths: Widths) -> float:
        return -math.prod(w**-power for w, power in zip(widths, (1.0, 0.2, 0.5, 0.0), strict=True))

    seen, new = random_widths(problem, 60), random_widths(problem, 40, seed=1)
    ranked = Response(problem).rank(new, {widths: value(widths) for widths in seen})
    places = [value(widths) for widths in ranked]
    order = np.argsort(np.argsort(places))
    assert np.corrcoef(order, np.arange(len(order))[::-1])[0, 1] > 0.99


def test_rewards_above_zero_are_learnt_as_they_are(make_toy: Any) -> None:
    problem = make_toy([16, 12]).problem
    seen = random_widths(problem, 40)
    values = {widths: widths[0] / 16 - 0.5 for widths in seen}
    assert Response(problem).rank([(4, 12), (16, 2), (9, 7)], values) == [(16, 2), (9, 7), (4, 12)]


@pytest.mark.parametrize("values", [{}, {(4, 4): -1.0}, {(4, 4): -1.0, (5, 4): -1.0, (6, 6): -1.0}])
def test_too_little_is_known(values: dict[Widths, float], make_toy: Any) -> None:
    problem = make_toy([16, 12]).problem
    assert Response(problem).rank([(4, 12), (16, 2)], values) == [(4, 12), (16, 2)]


def test_it_begins_with_the_warm_starts(make_toy: Any, play: Any) -> None:
    toy = make_toy([16, 12, 10, 14], trials=60)
    starts = warm_starts(toy.problem)
    asked = [t.candidate.widths for t in play(SurrogateStrategy(toy.problem), toy.value, 20)]
    assert asked[: len(starts)] == starts
    assert all(toy.problem.projection.fits(widths) for widths in asked)


@pytest.mark.parametrize("has_errors", [True, False])
def test_it_finds_a_known_optimum(has_errors: bool, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 8, 10, 12], has_errors=has_errors, trials=60)
    best = max(t.value for t in play(SurrogateStrategy(toy.problem), toy.value, 60))
    uniform = toy.value(toy.problem.projection.project([1.0] * 4))
    assert (toy.optimum() - best) / (toy.optimum() - uniform) <= 0.02
