from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from autoprune.agents.tools.loss_model import LossModel, LossModelConfig
from autoprune.core.policy import Widths
from autoprune.importance import Ranking
from autoprune.search_spaces.greedy import expected_losses

PRIORS = LossModelConfig()


def random_widths(problem: Any, count: int, seed: int = 0) -> list[Widths]:
    random = np.random.default_rng(seed)
    levels = problem.space.levels
    return [tuple(int(random.choice(own)) for own in levels) for _ in range(count)]


def losing(problem: Any, scales: list[float], power: float) -> Callable[[Widths], float]:
    """Return a reward of which the curves are right up to a factor each, and a power of the sum."""
    curves = expected_losses(problem.rankings)

    def value(widths: Widths) -> float:
        parts = zip(scales, curves, widths, strict=True)
        return -float((1e-3 + sum(s * c[w] for s, c, w in parts)) ** power)

    return value


def model_of(problem: Any) -> LossModel:
    return LossModel(expected_losses(problem.rankings), PRIORS)


def test_the_groups_factors_are_learnt(make_toy: Any) -> None:
    problem = make_toy([16, 12, 10, 14]).problem
    value = losing(problem, [4.0, 0.3, 1.0, 0.5], 0.8)
    seen, new = random_widths(problem, 60), random_widths(problem, 40, seed=1)
    fitted = model_of(problem).fit({widths: value(widths) for widths in seen})
    ranked = [value(widths) for widths in fitted.rank(new, 0.0)]
    assert spearmanr(ranked, np.arange(len(ranked))).statistic < -0.98
    # What has never varied is not known: the scales are, beside each other, and so is the power.
    scales = fitted.posterior.mean[2:6] - fitted.posterior.mean[2]
    assert np.allclose(scales, np.log([1.0, 0.3 / 4, 1 / 4, 0.5 / 4]), atol=0.5)


def test_before_anything_is_known_the_curves_decide(make_toy: Any) -> None:
    problem = make_toy([16, 12, 10, 14]).problem
    new = random_widths(problem, 40)
    ranked = model_of(problem).fit({}).rank(new, 0.0)
    losses = [losing(problem, [1.0] * 4, 1.0)(widths) for widths in ranked]
    assert losses == sorted(losses, reverse=True)


def test_what_little_is_known_of_gets_the_benefit_of_the_doubt(make_toy: Any) -> None:
    """Two groups that lose alike: the one that was never varied comes first with hope."""
    problem = make_toy([12, 12, 12]).problem
    value = losing(problem, [1.0, 1.0, 1.0], 1.0)
    values = {(w, 12, 12): value((w, 12, 12)) for w in range(2, 12)}
    fitted = model_of(problem).fit(values)
    known, unknown = (4, 12, 12), (12, 12, 4)
    assert fitted.rank([known, unknown], 5.0)[0] == unknown


def test_curves_are_drawn_as_they_may_be(make_toy: Any) -> None:
    """Less and less unlike each other the more is known; as deep as what is expected."""
    problem = make_toy([16, 12, 10, 14]).problem
    value = losing(problem, [4.0, 0.3, 1.0, 0.5], 1.0)
    model, spreads = model_of(problem), []
    for count in (0, 10, 100):
        seen = random_widths(problem, count)
        fitted = model.fit({widths: value(widths) for widths in seen})
        random = np.random.default_rng(0)
        halves = [[curve[len(curve) // 2] for curve in fitted.draw(random)] for _ in range(200)]
        shares = np.log(halves)
        spreads.append((shares - shares.mean(1, keepdims=True)).std(0).mean())
    assert spreads[0] > 1.5 * spreads[1] > 1.5 * spreads[2]


@pytest.mark.parametrize("rewards", [[0.3, 0.6, 0.9], [-0.4, 0.2, 0.5]])
def test_rewards_above_zero_are_learnt_as_they_are(rewards: list[float], make_toy: Any) -> None:
    problem = make_toy([16, 12]).problem
    values = dict(zip([(4, 12), (8, 12), (16, 12)], rewards, strict=True))
    ranked = model_of(problem).fit(values).rank([(3, 12), (15, 12), (9, 12)], 0.0)
    assert ranked == [(15, 12), (9, 12), (3, 12)]


@pytest.mark.parametrize("values", [{(4, 4): -1.0}, {(4, 4): -1.0, (5, 4): -1.0, (6, 6): -1.0}])
def test_equal_answers_teach_nothing(values: dict[Widths, float], make_toy: Any) -> None:
    problem = make_toy([16, 12]).problem
    before, after = (model_of(problem).fit(known) for known in ({}, values))
    assert (before.posterior.mean == after.posterior.mean).all() and (
        before.posterior.root == after.posterior.root
    ).all()


@pytest.mark.parametrize("best", [-1e-300, -1e-12, -1e-3])
def test_one_perfect_answer_does_not_turn_the_ranking_round(best: float, make_toy: Any) -> None:
    problem = make_toy([16, 12, 10, 14]).problem
    value = losing(problem, [4.0, 0.3, 1.0, 0.5], 1.0)
    values = {widths: value(widths) for widths in random_widths(problem, 40)}
    values[max(values, key=values.__getitem__)] = best
    new = random_widths(problem, 40, seed=1)
    ranked = [value(widths) for widths in model_of(problem).fit(values).rank(new, 0.0)]
    assert spearmanr(ranked, np.arange(len(ranked))).statistic < -0.8


def test_errors_of_a_custom_criterion_may_be_anything(make_toy: Any) -> None:
    problem = make_toy([16, 12]).problem
    odd = [Ranking(r.order, tuple(-e for e in r.errors)) for r in problem.rankings]
    flat = [Ranking(r.order, (0.0,) * len(r.errors)) for r in problem.rankings]
    for rankings in (odd, flat):
        model = LossModel(expected_losses(rankings), PRIORS)
        values = {(4, 12): -0.3, (16, 2): -0.2, (9, 7): -0.1}
        fitted = model.fit(values)
        assert sorted(fitted.rank(list(values), 0.5)) == sorted(values)
        assert all(np.isfinite(c).all() for c in fitted.draw(np.random.default_rng(0)))


def test_what_never_varied_stays_as_uncertain_as_before(make_toy: Any) -> None:
    problem = make_toy([12, 12, 12]).problem
    value = losing(problem, [1.0, 1.0, 1.0], 1.0)
    values = {(w, v, 4): value((w, v, 4)) for w in range(2, 12) for v in range(2, 12)}
    model = model_of(problem)
    before, after = (model.fit(v).posterior.deviations(np.eye(8)) for v in ({}, values))
    powers = slice(5, 8)
    assert after[powers][2] == pytest.approx(PRIORS.power_deviation, rel=0.1)
    assert (after[powers][:2] < 0.5 * before[powers][:2]).all()


@pytest.mark.parametrize("values", [{}, {(4, 12): -0.3, (16, 2): -0.2}])
def test_drawn_losses_are_positive_and_finite(values: Any, make_toy: Any) -> None:
    fitted = model_of(make_toy([16, 12]).problem).fit(values)
    for curve in fitted.draw(np.random.default_rng(0)):
        assert (curve > 0).all() and np.isfinite(curve).all()


def test_groups_that_lose_nothing_alone_teach_no_scale() -> None:
    """Their losses together say nothing of which of them it is."""
    values = {(1, 2, 2): -64.0, (2, 1, 2): -0.5, (2, 2, 1): -8.0}
    posterior = LossModel([np.zeros(3)] * 3, PRIORS).fit(values).posterior
    assert posterior.mean[2:] == pytest.approx([0.0] * 6, abs=1e-4)
    assert np.isfinite(posterior.root).all()
