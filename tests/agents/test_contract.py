"""What every strategy promises, whichever it is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autoprune.agents import STRATEGIES, check_strategy, make_strategy
from autoprune.errors import UsageError
from autoprune.policy import Widths

ALL = [
    ("auto", None),
    ("uniform", None),
    ("random", None),
    ("global", None),
    ("bayes", "tpe"),
    ("bayes", "gp"),
    ("bayes", "cmaes"),
    ("netadapt", None),
]
ROUNDS = 12


@pytest.fixture(params=ALL, ids=lambda pair: pair[1] or pair[0])
def who(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """A strategy's name and sampler."""
    pair: tuple[str, str | None] = request.param
    return pair


def test_every_strategy_is_tested() -> None:
    assert {name for name, _ in ALL} == set(STRATEGIES)


def test_candidates_are_allowed_and_within_the_budget(who: Any, toy: Any, play: Any) -> None:
    problem = toy.problem
    trials = play(make_strategy(who[0], problem, sampler=who[1]), toy.value, ROUNDS)
    assert trials[0].candidate.kind == "candidate"  # whatever comes, there is a best so far
    for trial in trials:
        widths = trial.candidate.widths
        assert all(type(width) is int for width in widths)
        assert problem.space.contains(widths)
        assert problem.projection.fits(widths) or trial.candidate.kind == "probe"


def test_nothing_is_asked_twice_but_by_chance(who: Any, toy: Any, play: Any) -> None:
    asked = [
        trial.candidate.widths
        for trial in play(make_strategy(who[0], toy.problem, sampler=who[1]), toy.value, ROUNDS)
    ]
    if who[0] != "random":
        assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("failing", ["some", "all", "the first"])
def test_failed_trials_are_survived(who: Any, failing: str, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    seen: list[Widths] = []

    def answer(widths: Widths) -> float | None:
        seen.append(widths)
        fails = {"some": len(seen) % 3 == 0, "all": True, "the first": len(seen) == 1}[failing]
        return None if fails else toy.value(widths)

    trials = play(make_strategy(who[0], toy.problem, sampler=who[1]), answer, ROUNDS)
    assert len(trials) == (1 if who[0] in ("uniform", "global") else ROUNDS)


def test_same_seed_and_answers_same_questions(who: Any, toy: Any, play: Any) -> None:
    first, again = (
        play(make_strategy(who[0], toy.problem, sampler=who[1]), toy.value, ROUNDS)
        for _ in range(2)
    )
    assert [t.candidate for t in first] == [t.candidate for t in again]


@pytest.mark.parametrize(
    ("name", "sampler"), [pair for pair in ALL if pair[0] in ("random", "bayes")]
)
def test_other_seeds_other_questions(
    name: str, sampler: str | None, make_toy: Any, play: Any
) -> None:
    asked = []
    for seed in range(2):
        toy = make_toy([12, 7, 9, 16], seed=seed)
        trials = play(make_strategy(name, toy.problem, sampler=sampler), toy.value, 8)
        asked.append([trial.candidate.widths for trial in trials])
    assert asked[0] != asked[1]


def test_rewards_of_any_size_are_learnt(who: Any, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    for scale in (0.0, 1e12):
        strategy = make_strategy(who[0], toy.problem, sampler=who[1])
        assert play(strategy, lambda widths, by=scale: by * toy.value(widths), ROUNDS)


@pytest.mark.parametrize(
    ("name", "sampler", "message"),
    [
        ("baies", None, "unknown strategy 'baies'; did you mean 'bayes'?"),
        ("ppo!", None, "choose one of: auto, bayes, global, netadapt, random, uniform"),
        ("bayes", "tpa", "unknown sampler 'tpa'; did you mean 'tpe'?"),
        ("auto", "nsga", "unknown sampler 'nsga'"),
        ("uniform", "tpe", "--sampler is for the strategy 'bayes'; 'uniform' has none"),
    ],
)
def test_unknown_names(name: str, sampler: str | None, message: str, make_toy: Any) -> None:
    for refuse in (
        lambda: check_strategy(name, sampler=sampler),
        lambda: make_strategy(name, make_toy([4, 4]).problem, sampler=sampler),
    ):
        with pytest.raises(UsageError) as caught:
            refuse()
        assert message in str(caught.value)


def test_uniform_keeps_one_ratio_everywhere(make_toy: Any) -> None:
    toy = make_toy([40, 80, 120], keep=0.25)
    candidate = make_strategy("uniform", toy.problem).ask()
    assert candidate is not None
    ratios = toy.problem.space.ratios(candidate.widths)
    assert max(ratios) - min(ratios) < 1.5 / 40
    assert math.isclose(ratios.mean(), 0.5, abs_tol=0.05)
