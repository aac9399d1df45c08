"""What every strategy promises, whichever it is."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.agents.registry import (
    STRATEGIES,
    check_strategy,
    check_unbounded,
    make_strategy,
    resolve,
    strategy_class,
)
from autoprune.core.policy import Widths
from autoprune.errors import RunError, UsageError
from autoprune.study.trial import Trial

# What is promised here holds however much is learnt of an episode.
QUICK = {"updates": 5}
ALL: list[tuple[str, dict[str, Any]]] = [
    ("auto", {}),
    ("uniform", {}),
    ("deep", {}),
    ("shallow", {}),
    ("random", {}),
    ("global", {}),
    ("sensitivity", {}),
    ("knapsack", {}),
    ("evolution", {}),
    ("bayes", {"sampler": "tpe"}),
    ("bayes", {"sampler": "gp"}),
    ("bayes", {"sampler": "cmaes"}),
    ("ddpg", QUICK),
    ("local", {}),
    ("surrogate", {}),
    ("netadapt", {}),
    ("rl:ppo", {}),
    ("rl:sac", QUICK),
    ("rl:td3", QUICK),
]
# They have one answer.
RULES = ("uniform", "deep", "shallow", "global")
ROUNDS = 12


@pytest.fixture(scope="module", params=ALL, ids=lambda pair: pair[1].get("sampler", pair[0]))
def who(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A strategy's name and options."""
    pair: tuple[str, dict[str, Any]] = request.param
    return pair


@pytest.fixture(scope="module")
def trials(who: Any, toy: Any, play: Any) -> list[Trial]:
    """A strategy's first questions about a problem, and their answers."""
    asked: list[Trial] = play(make_strategy(who[0], toy.problem, **who[1]), toy.value, ROUNDS)
    return asked


def test_every_strategy_is_tested() -> None:
    needs_a_run = {"recall"}  # test_recall
    assert {name for name, _ in ALL} == set(STRATEGIES) - needs_a_run


def test_candidates_are_allowed_and_within_the_budget(toy: Any, trials: list[Trial]) -> None:
    problem = toy.problem
    assert trials[0].candidate.kind == "candidate"  # whatever comes, there is a best so far
    for trial in trials:
        widths = trial.candidate.widths
        assert all(type(width) is int for width in widths)
        assert problem.space.contains(widths)
        assert trial.candidate.kind == "probe" or problem.projection.fits(widths)


def test_probes_leave_trials_for_candidates(who: Any, toy: Any, play: Any) -> None:
    strategy = make_strategy(who[0], toy.problem, **who[1])
    for _ in range(toy.problem.trials):
        (trial,) = play(strategy, toy.value, 1)
        if trial.candidate.kind == "candidate":
            return
    pytest.fail("nothing that could win was proposed")


def test_nothing_is_asked_twice_but_by_chance(who: Any, trials: list[Trial]) -> None:
    asked = [trial.candidate for trial in trials]
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

    trials = play(make_strategy(who[0], toy.problem, **who[1]), answer, ROUNDS)
    assert len(trials) == (1 if who[0] in RULES else ROUNDS)


def test_same_seed_and_answers_same_questions(
    who: Any, toy: Any, play: Any, trials: list[Trial]
) -> None:
    again = play(make_strategy(who[0], toy.problem, **who[1]), toy.value, ROUNDS)
    assert [t.candidate for t in trials] == [t.candidate for t in again]


@pytest.mark.parametrize(
    ("name", "options"), [pair for pair in ALL if pair[0] in ("random", "bayes", "evolution")]
)
def test_other_seeds_other_questions(
    name: str, options: dict[str, Any], make_toy: Any, play: Any
) -> None:
    asked = []
    for seed in range(2):
        toy = make_toy([12, 7, 9, 16], seed=seed)
        trials = play(make_strategy(name, toy.problem, **options), toy.value, 8)
        asked.append([trial.candidate.widths for trial in trials])
    assert asked[0] != asked[1]


def test_rewards_of_any_size_are_learnt(who: Any, make_toy: Any, play: Any) -> None:
    toy = make_toy([12, 7, 9])
    for scale in (0.0, 1e12):
        strategy = make_strategy(who[0], toy.problem, **who[1])
        assert play(strategy, lambda widths, by=scale: by * toy.value(widths), ROUNDS)


@pytest.mark.parametrize(
    ("name", "sampler", "message"),
    [
        ("baies", None, "unknown strategy 'baies'; did you mean 'bayes'?"),
        ("none of them", None, "choose one of: auto, bayes, ddpg, deep"),
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


@pytest.mark.parametrize(
    ("name", "options"), [pair for pair in ALL if not strategy_class(pair[0]).needs_budget]
)
def test_without_a_budget(name: str, options: dict[str, Any], make_toy: Any, play: Any) -> None:
    """Costs weigh in the value; the best is neither the whole network nor the least."""
    check_unbounded(name)
    toy = make_toy([12, 7, 9], bounded=False)
    problem = toy.problem
    cost, dense = problem.costs["flops"], problem.costs["flops"].total(problem.space.sizes)

    def value(widths: Widths) -> float:
        return float(toy.value(widths) - 4 * cost.total(widths) / dense)

    trials = play(make_strategy(name, problem, **options), value, 15)
    asked = {trial.candidate.widths for trial in trials}
    assert all(problem.space.contains(widths) for widths in asked) and len(asked) > 10
    reached = max(trial.value for trial in trials)
    assert reached > max(value(problem.space.sizes), value(problem.space.lowest))


@pytest.mark.parametrize("name", ["uniform", "global"])
def test_what_needs_a_budget_is_refused_without_one(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} needs a budget.*'bayes' or 'ddpg' or 'random'"):
        check_unbounded(name)


def test_auto_takes_what_was_measured_to_be_best(make_toy: Any) -> None:
    for groups, bounded, name in ((4, True, "surrogate"), (1, True, "bayes"), (16, False, "bayes")):
        problem = make_toy([8] * groups, bounded=bounded).problem
        assert make_strategy("auto", problem).name == name
    assert make_strategy("auto", make_toy([8] * 16).problem, sampler="gp").name == "bayes"


@pytest.mark.parametrize("bounded", [True, False])
def test_auto_takes_a_strategy_that_can_use_an_agent(
    bounded: bool, make_toy: Any, taught: str
) -> None:
    check_strategy("auto", agent=taught)
    problem = make_toy([8] * 16, bounded=bounded).problem
    strategy = make_strategy("auto", problem, agent=taught)
    assert (strategy.name, strategy.agent_from["path"]) == ("ddpg", taught)
    with pytest.raises(RunError, match="no-such-run"):
        check_strategy("auto", agent="no-such-run")


def test_options_that_no_strategy_has_together_are_refused(make_toy: Any) -> None:
    with pytest.raises(UsageError, match="no strategy has both --sampler and --agent"):
        check_strategy("auto", sampler="gp", agent="run")
    with pytest.raises(UsageError, match="no strategy has both"):
        resolve("auto", make_toy([8] * 16).problem, sampler="gp", agent="run")
