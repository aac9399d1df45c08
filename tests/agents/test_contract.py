"""What every strategy promises, whichever it is."""

from __future__ import annotations

from typing import Any

import pytest
from promises import keeping

from autoprune.agents.base import SearchProblem, Strategy
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

# What is promised here holds however much is learnt of an episode.
QUICK = {"updates": 1}
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


def contract(name: str, options: dict[str, Any]) -> type[StrategyContract]:
    class Contract(StrategyContract):
        has_one_answer = name in RULES
        may_repeat = name == "random"
        is_random = name in ("random", "bayes", "evolution")

        def started(self, problem: SearchProblem) -> Strategy:
            return make_strategy(name, problem, **options)

        def needs_budget(self) -> bool:
            return strategy_class(name).needs_budget

    return keeping(
        Contract,
        test_other_seeds_other_candidates=Contract.is_random,
        test_without_a_budget=not strategy_class(name).needs_budget,
    )


for _name, _options in ALL:
    _title = _options.get("sampler", _name).replace(":", "_")
    globals()[f"TestContract_{_title}"] = contract(_name, _options)


def test_every_strategy_is_tested() -> None:
    needs_more = {"recall", "given"}  # test_recall, test_given
    assert {name for name, _ in ALL} == set(STRATEGIES) - needs_more


@pytest.mark.parametrize(
    ("name", "sampler", "message"),
    [
        ("baies", None, "unknown strategy 'baies'; did you mean 'bayes'?"),
        ("none of them", None, "choose one of: auto, bayes, ddpg, deep"),
        ("bayes", "tpa", "unknown sampler 'tpa'; did you mean 'tpe'?"),
        ("auto", "nsga", "unknown sampler 'nsga'"),
        ("uniform", "tpe", "sampler is for the strategy 'bayes'; 'uniform' has none"),
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
    with pytest.raises(UsageError, match="no strategy has both sampler and agent"):
        check_strategy("auto", sampler="gp", agent="run")
    with pytest.raises(UsageError, match="no strategy has both"):
        resolve("auto", make_toy([8] * 16).problem, sampler="gp", agent="run")
