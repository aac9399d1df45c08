from __future__ import annotations

from typing import Any

import pytest

from autoprune.agents.surrogate import SurrogateStrategy
from autoprune.agents.tools.warm_starts import warm_starts


def test_it_begins_with_the_warm_starts(make_toy: Any, play: Any) -> None:
    toy = make_toy([16, 12, 10, 14], trials=60)
    starts = warm_starts(toy.problem)
    asked = [
        t.candidate.widths for t in play(SurrogateStrategy().started(toy.problem), toy.value, 20)
    ]
    assert asked[: len(starts)] == starts
    assert all(toy.problem.projection.fits(widths) for widths in asked)


@pytest.mark.parametrize("has_errors", [True, False])
def test_it_finds_a_known_optimum(has_errors: bool, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 8, 10, 12], has_errors=has_errors, trials=60)
    best = max(t.value for t in play(SurrogateStrategy().started(toy.problem), toy.value, 60))
    uniform = toy.value(toy.problem.projection.project([1.0] * 4))
    assert (toy.optimum() - best) / (toy.optimum() - uniform) <= 0.02
