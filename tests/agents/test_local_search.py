"""Swaps by calibrated curves: where they begin, and what they find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.agents.ddpg.agent import DdpgStrategy
from autoprune.agents.local_search import LocalSearchStrategy
from autoprune.agents.registry import check_strategy, make_strategy
from autoprune.agents.tools.moves import narrow
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.errors import RunError


def test_it_begins_with_the_agents_advice_and_the_warm_starts(
    make_toy: Any, play: Any, taught: str
) -> None:
    toy = make_toy([16, 12, 10, 14])
    agent = DdpgStrategy(agent=taught).started(toy.problem)
    advice = agent._play(0.0, agent.config.trust)
    starts = warm_starts(toy.problem)
    assert advice not in starts
    strategy = make_strategy("local", toy.problem, agent=taught)
    asked = [t.candidate.widths for t in play(strategy, toy.value, 1 + len(starts))]
    assert asked == [advice, *starts]
    assert strategy.agent_from["path"] == taught
    assert make_strategy("local", toy.problem).agent_from is None


def test_swaps_are_around_the_best(make_toy: Any, play: Any) -> None:
    """One group grows, another pays; what is left of the budget may widen others."""
    toy = make_toy([16, 12, 10, 14], trials=60)
    trials = play(LocalSearchStrategy().started(toy.problem), toy.value, 20)
    first = len(warm_starts(toy.problem))
    for number in range(first, len(trials)):
        before = trials[:number]
        best = max(before, key=lambda trial: trial.value).candidate.widths
        changes = [b - a for a, b in zip(best, trials[number].candidate.widths, strict=True)]
        assert sum(change < 0 for change in changes) <= 1 <= sum(change > 0 for change in changes)


@pytest.mark.parametrize("has_errors", [True, False])
def test_it_finds_a_known_optimum(has_errors: bool, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 8, 10, 12], has_errors=has_errors, trials=120)
    best = max(t.value for t in play(LocalSearchStrategy().started(toy.problem), toy.value, 120))
    uniform = toy.value(toy.problem.projection.project([1.0] * 4))
    assert (toy.optimum() - best) / (toy.optimum() - uniform) <= 0.02


def test_a_missing_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no agent in"):
        check_strategy("local", agent=str(tmp_path))


def test_a_group_pays_at_a_quick_width_where_its_narrowest_is_slow(
    make_toy: Any, stairs: Any
) -> None:
    """An odd width costs three more: 8 + 2 meets a bound of 11, 8 + 1 + 3 does not."""
    projection = make_toy([8, 8], costs=[stairs], keep=11 / 16).problem.projection
    assert narrow((8, 8), 1, projection) == (8, 2)
    assert narrow((8, 2), 1, projection) is None


def test_it_goes_on_where_costs_go_up_and_down(make_toy: Any, stairs: Any, play: Any) -> None:
    toy = make_toy([16, 10, 8, 12], costs=[stairs], keep=0.6, trials=40)
    trials = play(LocalSearchStrategy().started(toy.problem), toy.value, 40)
    assert len(trials) == 40
    best = max(t.value for t in trials)
    assert best > max(trial.value for trial in trials[:2])
