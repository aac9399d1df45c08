from __future__ import annotations

import itertools
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.agents.netadapt import (
    NetAdaptConfig,
    NetAdaptStrategy,
    plan,
    shares_enough,
    step_bounds,
)
from autoprune.agents.registry import make_strategy
from autoprune.agents.tools.moves import narrow, swap
from autoprune.core.policy import Widths
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.trial import Trial

SEEDS = range(3)
# Errors that say too much of some groups and too little of others.
SCALES = (4.0, 0.3, 10.0, 1.0, 0.1, 2.0)


def problem_of(toy: Any, trials: int) -> Any:
    return replace(toy.problem, trials=trials)


def entangled(toy: Any) -> Any:
    """Return a loss whose scales the curves do not know and in which groups interact."""

    def value(widths: Widths) -> float:
        errors = [curve[w] for curve, w in zip(toy.curves, widths, strict=True)]
        losses = np.array(errors) * list(itertools.islice(itertools.cycle(SCALES), len(errors)))
        return -float(losses.sum() + 0.5 * (losses[1:] * losses[:-1]).sum() ** 0.5)

    return value


def best(trials: list[Trial]) -> float:
    return max(t.value for t in trials if t.value is not None and t.candidate.kind == "candidate")


@pytest.mark.parametrize("sizes", [[5], [8, 8, 8], [12, 7, 9], [4, 20, 6]], ids=str)
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_finds_the_enumerated_optimum(
    sizes: list[int], keep: float, make_toy: Any, play: Any
) -> None:
    toy = make_toy(sizes, keep=keep)
    value = entangled(toy)
    trials = play(NetAdaptStrategy().started(problem_of(toy, 60)), value, 60)
    assert best(trials) == pytest.approx(max(map(value, toy.candidates())), rel=0.02)


@pytest.mark.parametrize("has_errors", [True, False])
def test_beats_uniform_and_random_at_equal_evaluations(
    has_errors: bool, make_toy: Any, play: Any
) -> None:
    for seed in SEEDS:
        toy = make_toy([16] * 6, has_errors=has_errors, seed=seed)
        ours, random, uniform = (
            best(play(make_strategy(name, problem_of(toy, 40)), entangled(toy), 40))
            for name in ("netadapt", "random", "uniform")
        )
        assert ours > max(random, uniform)


def test_more_trials_give_more(make_toy: Any, play: Any) -> None:
    values = []
    for trials in (12, 40, 120):
        toys = [make_toy([16] * 6, seed=seed) for seed in SEEDS]
        found = [
            best(play(NetAdaptStrategy().started(problem_of(t, trials)), entangled(t), trials))
            for t in toys
        ]
        values.append(median(found))
    assert values == sorted(values) and values[0] < values[-1]


def test_bounds_of_the_steps_decay(make_toy: Any, widest: Any, chain: Any) -> None:
    """168 MACs and 8 bytes; both bounds reach their half together, the second step takes 0.9."""
    toy = make_toy([8, 8], costs=[chain, widest])
    first, second = step_bounds(toy.problem.projection, (8, 8), 3, 0.9)
    shares = [1 / 2.71, 1.9 / 2.71]
    for step, share in zip((first, second), shares, strict=True):
        limits = [constraint.limit for constraint in step.constraints]
        assert limits == pytest.approx([168 - 84 * share, 8 - 4 * share])
    removed = np.diff([0.0, *shares, 1.0])
    assert removed[1:] / removed[:-1] == pytest.approx([0.9, 0.9])


def test_a_bound_that_holds_already_stays(make_toy: Any, widest: Any, chain: Any) -> None:
    toy = make_toy([8, 8])
    loose = Projection(toy.problem.space, [Constraint(chain, 84.0), Constraint(widest, 20.0)])
    assert [step.constraints[1].limit for step in step_bounds(loose, (8, 8), 4, 0.9)] == [20.0] * 3


def test_one_group_just_meets_the_bound(make_toy: Any, chain: Any, widest: Any) -> None:
    """3a + ab + 10b at (8, 8) is 168; 140 leaves a ≤ 60/11 or b ≤ 116/18."""
    space = make_toy([8, 8]).problem.space
    bound = Projection(space, [Constraint(chain, 140.0)])
    assert narrow((8, 8), 0, bound) == (5, 8)
    assert narrow((8, 8), 1, bound) == (8, 6)
    assert narrow((8, 8), 0, Projection(space, [Constraint(chain, 90.0)])) is None
    # Of a maximum over layers no layer alone takes anything away.
    assert narrow((8, 8), 0, Projection(space, [Constraint(widest, 7.0)])) is None
    assert narrow((8, 7), 0, Projection(space, [Constraint(widest, 7.0)])) == (7, 7)


# Every step names its base, so that its proposals can be told from others.
ALWAYS_BASED = NetAdaptConfig(overhead=-1e9)


def test_a_base_is_named_where_proposals_share_more_than_it_costs() -> None:
    base = (8, 8, 8, 8)
    last, third, first = (8, 8, 8, 7), (8, 8, 7, 8), (7, 8, 8, 8)
    # 0.75 + 0.5 of a forward pass is shared, and the base alone costs one.
    assert not shares_enough([first, third, last], base, 0.5)
    assert shares_enough([first, third, last, last], base, 0.5)
    assert not shares_enough([first] * 100, base, 0.5)


def descent(trials: list[Trial]) -> list[tuple[Widths, list[Widths]]]:
    """Return (base, proposals) of every step."""
    asked = [t.candidate for t in trials if t.candidate.base is not None]
    return [
        (base, [c.widths for c in step])
        for base, step in itertools.groupby(asked, key=lambda c: c.base)
        if base is not None
    ]


@pytest.mark.parametrize("kinds", [["chain"], ["chain", "widest"], ["widest"]], ids="+".join)
def test_steps_go_down_to_the_budget(
    kinds: list[str], make_toy: Any, play: Any, request: pytest.FixtureRequest
) -> None:
    costs = [request.getfixturevalue(kind) for kind in kinds]
    toy = make_toy([16, 12, 16, 12], costs=costs, keep=0.4)
    problem = problem_of(toy, 60)
    trials = play(NetAdaptStrategy(ALWAYS_BASED).started(problem), entangled(toy), 60)
    projection, dense = problem.projection, problem.space.sizes
    steps, count = plan(60, 4, ALWAYS_BASED)
    down = [(base, ps) for base, ps in descent(trials) if not projection.fits(base)]
    assert 3 <= len(down) <= steps and down[0][0] == dense

    bounds = iter([*step_bounds(projection, dense, steps, 0.9), projection])
    for base, proposals in down:
        # A step that its forerunner took along is left out.
        bound = next(b for b in bounds if not b.fits(base))
        assert len(proposals) <= count
        assert all(bound.fits(widths) for widths in proposals)
        # In network order: what comes before the first change need not be computed again.
        firsts = [[a == b for a, b in zip(w, base, strict=True)].index(False) for w in proposals]
        assert firsts == sorted(firsts)
        for widths in proposals if bound is not projection else []:
            changed = [g for g in range(4) if widths[g] != base[g]]
            if len(changed) == 1:
                wider = problem.space.next_up(widths, changed[0])
                assert wider is not None and not bound.fits(wider)
    excess = [projection.excess(base) for base, _ in down]
    assert excess == sorted(excess, reverse=True)
    for widths in down[-1][1]:
        ups = [problem.space.next_up(widths, g) for g in range(4)]
        assert not any(up and projection.fits(up) for up in ups)


def test_bases_were_measured(make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    trials = play(NetAdaptStrategy(ALWAYS_BASED).started(problem_of(toy, 40)), toy.value, 40)
    seen: set[Widths] = set()
    for trial in trials:
        assert trial.candidate.base is None or trial.candidate.base in seen
        seen.add(trial.candidate.widths)


def test_probes_are_over_the_budget_and_candidates_are_not(make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9], keep=0.3)
    trials = play(NetAdaptStrategy().started(problem_of(toy, 60)), toy.value, 60)
    kinds = [trial.candidate.kind for trial in trials]
    assert kinds == [
        "candidate" if toy.problem.projection.fits(trial.candidate.widths) else "probe"
        for trial in trials
    ]
    assert kinds.count("probe") >= 5


def test_the_proposal_that_loses_least_per_cost_is_kept(make_toy: Any, play: Any) -> None:
    """Whatever the curves say, layer 2 is free, so that the next step starts from its cut."""
    toy = make_toy([16, 16, 16], has_errors=False)
    strategy = NetAdaptStrategy(ALWAYS_BASED).started(problem_of(toy, 100))
    trials = play(strategy, lambda w: 1.0 * (w[0] == w[1] == 16), 12)
    (_, proposals), (base, _), *_ = descent(trials)
    assert (16, 16, base[2]) == base and base in proposals


@pytest.mark.parametrize("failing", ["the dense network", "all over the budget", "one layer's"])
def test_goes_on_without_some_answers(failing: str, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    fails = {
        "the dense network": lambda w: w == (12, 7, 9),
        "all over the budget": lambda w: not toy.problem.projection.fits(w),
        "one layer's": lambda w: w[1] < 7,
    }[failing]
    trials = play(
        NetAdaptStrategy().started(problem_of(toy, 60)),
        lambda w: None if fails(w) else toy.value(w),
        60,
    )
    able = [widths for widths in toy.candidates() if not fails(widths)]
    assert best(trials) == pytest.approx(max(map(toy.value, able)), rel=0.1)


def test_ends_when_nothing_is_left(make_toy: Any, play: Any) -> None:
    for sizes in ([3, 3], [20], [2]):
        toy = make_toy(sizes, keep=0.6)
        strategy = NetAdaptStrategy().started(problem_of(toy, 400))
        trials = play(strategy, toy.value, 400)
        assert len(trials) < 400 and strategy.ask() is None
        assert best(trials) == toy.optimum()


def test_effort_grows_with_trials() -> None:
    for groups in (1, 10, 50):
        plans = [plan(trials, groups, NetAdaptConfig()) for trials in (1, 10, 40, 100, 400, 2000)]
        assert plans == sorted(plans)
        assert all(1 <= steps and 2 <= count <= max(groups + 1, 2) for steps, count in plans)
    steps, count = plan(100, 10, NetAdaptConfig())
    assert 25 <= steps * count <= 35


@given(st.data())
def test_swaps_stay_on_the_budget(make_toy: Any, data: st.DataObject) -> None:
    step = data.draw(st.sampled_from([1, 4]))
    sizes = data.draw(st.lists(st.integers(2 * step, 24), min_size=1, max_size=4))
    problem = make_toy(sizes, step=step, keep=0.7).problem
    ratios = [data.draw(st.floats(0.1, 1.0)) for _ in sizes]
    widths = problem.projection.project(ratios)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    other = swap(widths, problem.projection, random)
    if other is not None:
        changes = [b - a for a, b in zip(widths, other, strict=True) if a != b]
        assert sorted(np.sign(changes).tolist()) == [-1, 1]
        assert problem.space.contains(other) and problem.projection.fits(other)
