from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from autoprune.agents.base import Candidate, Trial
from autoprune.agents.evolution import EvolutionStrategy
from autoprune.agents.registry import make_strategy
from autoprune.agents.tools.warm_starts import warm_starts


def best(make_toy: Any, play: Any, name: str, seed: int) -> float:
    toy = make_toy([12] * 6, has_errors=False, seed=seed)
    return float(max(t.value for t in play(make_strategy(name, toy.problem), toy.value, 60)))


def test_beats_random_search(make_toy: Any, play: Any) -> None:
    ours = [best(make_toy, play, "evolution", seed) for seed in range(3)]
    assert median(ours) > median(best(make_toy, play, "random", seed) for seed in range(9))


def test_starts_from_what_is_known(make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    asked = [
        t.candidate.widths for t in play(EvolutionStrategy().started(toy.problem), toy.value, 2)
    ]
    assert asked == warm_starts(toy.problem)


@pytest.mark.parametrize(("at_once", "children"), [(1, 2), (2, 2), (5, 5)])
def test_a_generation_has_work_for_all(at_once: int, children: int, make_toy: Any) -> None:
    toy = make_toy([12] * 6)
    strategy = EvolutionStrategy().started(replace(toy.problem, at_once=at_once))
    generations: list[list[Candidate]] = [[]]
    while len(generations) < 4:
        candidate = strategy.ask()
        assert candidate is not None
        generations[-1].append(candidate)
        if candidate.awaited:
            for one in generations[-1]:
                strategy.tell(Trial(one, toy.value(one.widths)))
            generations.append([])
    assert [len(one) for one in generations] == [2, children, children, 0]


def test_a_small_space_is_searched_to_its_best(make_toy: Any, play: Any) -> None:
    toy = make_toy([4, 4, 4], has_errors=False)
    trials = play(EvolutionStrategy().started(toy.problem), toy.value, 100)
    assert max(t.value for t in trials) == toy.optimum()
