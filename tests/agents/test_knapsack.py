from __future__ import annotations

from typing import Any

import numpy as np

from autoprune.agents.knapsack import KnapsackStrategy


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
