from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoprune.agents.sensitivity import SensitivityStrategy


def candidates(toy: Any, play: Any, trials: int) -> list[Any]:
    strategy = SensitivityStrategy().started(replace(toy.problem, trials=trials))
    played = play(strategy, toy.value, trials)
    uniform, *others = (t.candidate.widths for t in played if t.candidate.kind == "candidate")
    return others or [uniform]


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("sizes", [[6, 5], [5, 6, 4], [8, 8]], ids=str)
def test_the_worst_groups_loss_is_least(
    sizes: list[int], keep: float, make_toy: Any, play: Any
) -> None:
    """Every level is probed: the threshold's candidate is the enumerated minimax."""
    toy = make_toy(sizes, keep=keep, has_errors=False)

    def worst(widths: Any) -> float:
        return max(curve[w] for curve, w in zip(toy.curves, widths, strict=True))

    first = candidates(toy, play, 60)[0]
    assert worst(first) == pytest.approx(min(map(worst, toy.candidates())))


def test_the_insensitive_group_is_cut_most(make_toy: Any, play: Any) -> None:
    """Weights 1, 8 and 0.1 of the toy's curves."""
    toy = make_toy([12, 12, 12])
    first = candidates(toy, play, 30)[0]
    assert first[2] < first[0] < first[1]


def test_trials_left_try_other_thresholds(make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 12, 12])
    found = candidates(toy, play, 30)
    assert len(set(found)) == len(found) > 3
