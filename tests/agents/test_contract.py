"""What every strategy promises, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from autoprune.agents import reinforcement
from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.ddpg import agent
from autoprune.agents.registry import (
    STRATEGIES,
    check_strategy,
    check_unbounded,
    make_strategy,
    resolve,
    strategy_class,
)
from autoprune.errors import RunError, UsageError
from autoprune.testing import StrategyContract

ALL = [
    ("auto", None),
    ("uniform", None),
    ("deep", None),
    ("shallow", None),
    ("random", None),
    ("global", None),
    ("sensitivity", None),
    ("knapsack", None),
    ("evolution", None),
    ("bayes", "tpe"),
    ("bayes", "gp"),
    ("bayes", "cmaes"),
    ("ddpg", None),
    ("local", None),
    ("surrogate", None),
    ("netadapt", None),
    ("rl:ppo", None),
    ("rl:sac", None),
    ("rl:td3", None),
]
# They have one answer.
RULES = ("uniform", "deep", "shallow", "global")


@pytest.fixture(scope="module", autouse=True)
def _few_updates() -> Iterator[None]:
    """What is promised here holds however much is learnt of an episode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "UPDATES", 5)
        patch.setattr(reinforcement, "UPDATES", 5)
        yield


def contract(name: str, sampler: str | None) -> type[StrategyContract]:
    class Contract(StrategyContract):
        has_one_answer = name in RULES
        may_repeat = name == "random"
        is_random = name in ("random", "bayes", "evolution")
        needs_budget = strategy_class(name).needs_budget

        def make(self, problem: SearchProblem) -> Strategy:
            return make_strategy(name, problem, sampler=sampler)

    return Contract


for _name, _sampler in ALL:
    _title = (_sampler or _name).replace(":", "_")
    globals()[f"TestContract_{_title}"] = contract(_name, _sampler)


def test_every_strategy_is_tested() -> None:
    needs_a_run = {"recall"}  # test_recall
    assert {name for name, _ in ALL} == set(STRATEGIES) - needs_a_run


@pytest.mark.parametrize(
    ("name", "sampler", "message"),
    [
        ("baies", None, "unknown strategy 'baies'; did you mean 'bayes'?"),
        ("none of them", None, f"choose one of: {', '.join(STRATEGIES)}"),
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


@pytest.mark.parametrize("name", sorted({name for name, _ in ALL}))
def test_what_needs_no_budget_is_taken_without_one(name: str) -> None:
    if not strategy_class(name).needs_budget:
        check_unbounded(name)


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
