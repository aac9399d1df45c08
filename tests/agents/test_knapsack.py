from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoprune.agents.knapsack import KnapsackConfig, KnapsackStrategy, draw_scales, learn


def test_the_first_candidate_is_near_the_enumerated_optimum(make_toy: Any, play: Any) -> None:
    """The toy's losses add up, and its error curves have their shape."""
    toy = make_toy([12, 7, 9])
    trials = play(KnapsackStrategy().started(toy.problem), toy.value, 10)
    _uniform, first, *_ = (t for t in trials if t.candidate.kind == "candidate")
    scale = -toy.value(toy.problem.space.lowest)
    assert toy.optimum() - first.value <= 0.02 * scale


def test_learns_which_groups_suffer_more_together(make_toy: Any, play: Any) -> None:
    """Cut with others, one group loses eight times as much: the first candidate cannot know."""
    toy = make_toy([12] * 4)
    dense = toy.problem.space.sizes

    def answer(widths: Any) -> float:
        cut = [g for g in range(4) if widths[g] < dense[g]]
        factors = np.array([1, 1, 8, 1]) if len(cut) > 1 else np.ones(4)
        losses = [curve[w] for curve, w in zip(toy.curves, widths, strict=True)]
        return -float(factors @ np.array(losses))

    trials = play(KnapsackStrategy().started(toy.problem), answer, 14)
    values = [t.value for t in trials if t.candidate.kind == "candidate"]
    optimum = max(map(answer, toy.candidates()))
    assert max(values) > values[0]
    assert optimum - max(values) < 0.25 * (optimum - values[0])


def test_scales_are_recovered() -> None:
    rng = np.random.default_rng(0)
    features, scales = rng.uniform(0.1, 1, (40, 3)), np.array([1.0, 2.0, 1.5])
    posterior = learn(features, features @ scales, KnapsackConfig())
    assert np.allclose(posterior.mean, scales, rtol=0.02)
    assert (posterior.deviations(np.eye(3)) < 0.2).all()


def test_what_was_never_cut_stays_as_uncertain_as_before() -> None:
    posterior = learn(np.array([[1.0, 0.0], [0.5, 0.0]]), np.array([3.0, 1.5]), KnapsackConfig())
    deviations = posterior.deviations(np.eye(2))
    assert posterior.mean == pytest.approx([3.0, 3.0], rel=1e-3)
    assert deviations[1] == pytest.approx(1.5) and deviations[0] < 0.2


def test_nothing_learnt_is_a_wide_guess() -> None:
    posterior = learn(np.zeros((0, 2)), np.zeros(0), KnapsackConfig())
    assert posterior.mean == pytest.approx([1, 1])
    assert (draw_scales(posterior, np.random.default_rng(0), 100.0) > 0).all()


def test_groups_that_lose_nothing_alone_teach_no_scale() -> None:
    posterior = learn(np.zeros((2, 3)), np.array([64.0, 0.5]), KnapsackConfig())
    assert posterior.mean == pytest.approx([1.0] * 3) and np.isfinite(posterior.root).all()
