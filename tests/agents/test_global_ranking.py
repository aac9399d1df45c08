from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.agents.global_ranking import GlobalStrategy, threshold
from autoprune.errors import UsageError
from autoprune.importance import Ranking
from autoprune.search_spaces.greedy import _cut, greedy_cut, least_loss
from autoprune.study.trial import Candidate


@pytest.mark.parametrize("keep", [0.25, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("sizes", [[5], [8, 8, 8], [12, 7, 9], [4, 20, 6]], ids=str)
def test_near_the_enumerated_optimum(sizes: list[int], keep: float, make_toy: Any) -> None:
    toy = make_toy(sizes, keep=keep)
    widths = least_loss(toy.problem.projection, toy.problem.rankings)
    assert toy.problem.space.contains(widths) and toy.problem.projection.fits(widths)
    scale = -toy.value(toy.problem.space.lowest)
    assert toy.optimum() - toy.value(widths) <= 0.05 * scale


def test_a_generous_budget_keeps_everything(make_toy: Any) -> None:
    toy = make_toy([8, 8], keep=1.0)
    assert least_loss(toy.problem.projection, toy.problem.rankings) == (8, 8)


def test_error_never_falls_with_the_budget(make_toy: Any) -> None:
    values = []
    for keep in np.linspace(0.1, 1.0, 19):
        toy = make_toy([12, 7, 9], keep=keep)
        values.append(toy.value(least_loss(toy.problem.projection, toy.problem.rankings)))
    assert all(a <= b + 0.02 for a, b in itertools.pairwise(values))


@given(seed=st.integers(0, 10_000), keep=st.floats(0.15, 0.9))
@settings(max_examples=40, deadline=None)
def test_the_cheapest_cut_is_always_next(seed: int, keep: float, make_toy: Any) -> None:
    """The same as looking at all groups before every cut."""
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 40, random.integers(2, 9)).tolist()
    projection = make_toy(sizes, keep=keep).problem.projection
    curves = [
        random.uniform(0.1, 10) * (1 - np.arange(size + 1) / size) ** random.uniform(0.5, 4)
        for size in sizes
    ]
    widths = tuple(sizes)
    while not projection.fits(widths):
        excess = projection.excess(widths)
        cuts = [_cut(widths, g, curve, projection, excess) for g, curve in enumerate(curves)]
        widths = min(cut for cut in cuts if cut is not None)[1]
    assert greedy_cut(tuple(sizes), curves, projection) == widths


@pytest.mark.parametrize("step", [1, 4])
def test_a_cost_with_plateaus(step: int, make_toy: Any, widest: Any, chain: Any) -> None:
    """Single cuts save nothing where the cost is a maximum over layers."""
    for costs in ([widest], [widest, chain]):
        toy = make_toy([16, 16, 16], step=step, keep=0.5, costs=costs)
        widths = least_loss(toy.problem.projection, toy.problem.rankings)
        assert toy.problem.space.contains(widths) and toy.problem.projection.fits(widths)


def test_a_plateau_of_errors_is_cut_through(make_toy: Any) -> None:
    """Where errors rise at once and then no more, the whole rest of the group goes first."""
    toy = make_toy([16, 16], keep=0.6)
    cliff = [1.0] * 16 + [0.0]
    steady = [(100 * (1 - w / 16)) for w in range(17)]
    rankings = [Ranking(tuple(range(16)), tuple(curve)) for curve in (cliff, steady)]
    narrow, wide = least_loss(toy.problem.projection, rankings)
    assert narrow < wide


def test_needs_errors(make_toy: Any) -> None:
    with pytest.raises(UsageError, match="'global' needs an importance with error curves"):
        GlobalStrategy().started(make_toy([8, 8], has_errors=False).problem)


def scored(toy: Any, *scores: list[float]) -> Any:
    rankings = [Ranking(tuple(range(len(s))), None, tuple(s)) for s in scores]
    return replace(toy.problem, rankings=rankings)


def at_threshold(problem: Any) -> tuple[int, ...]:
    return threshold(problem.projection, [np.array(one.scores) for one in problem.rankings])


def test_without_a_budget_a_threshold_decides(make_toy: Any) -> None:
    toy = make_toy([4, 6], bounded=False)
    problem = scored(toy, [0.9, 0.5, 0.0, 0.0], [0.3, 0.2, 0.1, 0.1, 0.0, 0.0])
    strategy = GlobalStrategy(threshold=0.0)
    assert GlobalStrategy().needs_budget and not strategy.needs_budget
    assert strategy.started(problem).ask() == Candidate((2, 4))
    assert GlobalStrategy(threshold=0.1).started(problem).ask() == Candidate((2, 2))


def test_one_threshold_over_all_scores(make_toy: Any) -> None:
    """Every unit above the least threshold that fits stays, and no other that would still fit."""
    rng = np.random.default_rng(0)
    for keep in (0.2, 0.5, 0.9):
        toy = make_toy([12, 7, 9], keep=keep)
        scores = [sorted(rng.gamma(0.5, size=n).tolist(), reverse=True) for n in (12, 7, 9)]
        problem = scored(toy, *scores)
        widths = at_threshold(problem)
        assert problem.space.contains(widths) and problem.projection.fits(widths)
        limits = sorted({s for own in scores for s in own})
        at_limit = [tuple(sum(s > t for s in own) for own in scores) for t in limits]
        cut = next(w for w in at_limit if problem.projection.fits(tuple(max(x, 1) for x in w)))
        assert all(w >= c for w, c in zip(widths, cut, strict=True))
        assert GlobalStrategy().started(problem).ask() == Candidate(widths)


def test_threshold_of_equal_scores_and_generous_budgets(make_toy: Any) -> None:
    """Ties go at once; what the budget then leaves is spent."""
    toy = make_toy([8, 8], keep=0.5)
    tied = scored(toy, [1.0] * 8, [1.0] * 8)
    widths = at_threshold(tied)
    assert toy.problem.projection.fits(widths) and min(widths) > 1
    assert at_threshold(scored(make_toy([8, 8], keep=1.0), [1.0] * 8, [1.0] * 8)) == (8, 8)
