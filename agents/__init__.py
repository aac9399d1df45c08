"""Who chooses the widths: search strategies, by name."""

from __future__ import annotations

import importlib
from typing import Any

from autoprune.errors import UsageError, did_you_mean
from autoprune.strategy import SearchProblem, Strategy

# Imported when they are chosen: some need heavy libraries.
_PLACES = {
    "bayes": "autoprune.agents.bayesian:BayesianStrategy",
    "ddpg": "autoprune.agents.ddpg.agent:DdpgStrategy",
    "deep": "autoprune.agents.uniform:DeepStrategy",
    "evolution": "autoprune.agents.evolution:EvolutionStrategy",
    "global": "autoprune.agents.global_ranking:GlobalStrategy",
    "knapsack": "autoprune.agents.knapsack:KnapsackStrategy",
    "local": "autoprune.agents.local_search:LocalSearchStrategy",
    "netadapt": "autoprune.agents.netadapt:NetAdaptStrategy",
    "random": "autoprune.agents.random_search:RandomStrategy",
    "recall": "autoprune.agents.recall:RecallStrategy",
    "rl:ppo": "autoprune.agents.reinforcement:PpoStrategy",
    "rl:sac": "autoprune.agents.reinforcement:SacStrategy",
    "rl:td3": "autoprune.agents.reinforcement:Td3Strategy",
    "sensitivity": "autoprune.agents.sensitivity:SensitivityStrategy",
    "shallow": "autoprune.agents.uniform:ShallowStrategy",
    "uniform": "autoprune.agents.uniform:UniformStrategy",
}
AUTO, FALLBACK = "auto", "bayes"
# The agent that comes with autoprune.
BUILT_IN = "built-in"
# From so many groups on, swaps around what an agent that learnt on another network advises find
# better widths under a budget than any other strategy in as many trials; with fewer they do not.
MANY_GROUPS = 10

STRATEGIES = (AUTO, *sorted(_PLACES))


def strategy_class(name: str) -> type[Strategy]:
    """Return the strategy of that name; for "auto" the one whose options it takes.

    Raises:
        UsageError: there is none.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; {did_you_mean(name, STRATEGIES)}")
    module, _, attribute = _PLACES[FALLBACK if name == AUTO else name].partition(":")
    found: type[Strategy] = getattr(importlib.import_module(module), attribute)
    return found


def check_strategy(name: str, **options: Any) -> None:
    """Refuse unknown names and misplaced options before any work is done.

    Args:
        name: of the strategy.
        **options: of certain strategies; None where nothing was said.

    Raises:
        UsageError: no such strategy, an option that it does not have, or a bad value.
    """
    chosen = strategy_class(name)
    for option, value in options.items():
        if value is not None and option not in chosen.options:
            able = [n for n in sorted(_PLACES) if option in strategy_class(n).options]
            takers = " or ".join(map(repr, able))
            raise UsageError(
                f"--{option.removesuffix('_run')} is for the strategy {takers}; {name!r} has none."
            )
    chosen.check_options(**{k: v for k, v in options.items() if v is not None})


def check_unbounded(name: str) -> None:
    """Refuse a strategy that needs a budget where there is none.

    Raises:
        UsageError: it does.
    """
    if strategy_class(name).needs_budget:
        able = [n for n in sorted(_PLACES) if not strategy_class(n).needs_budget]
        raise UsageError(
            f"the strategy {name!r} needs a budget: give one, e.g. flops=0.5, or choose the "
            f"strategy {' or '.join(map(repr, able))}."
        )


def make_strategy(name: str, problem: SearchProblem, **options: Any) -> Strategy:
    """Return the strategy of that name.

    Raises:
        UsageError: see `check_strategy`.
    """
    check_strategy(name, **options)
    name, given = resolve(name, problem, **options)
    return strategy_class(name)(problem, **given)


def resolve(name: str, problem: SearchProblem, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return what is meant by a strategy's name and options.

    That is, for "auto", the one that is best for the problem by our measurements (docs/results.md).
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name != AUTO:
        return name, given
    if given or not problem.projection.constraints or len(problem.space) < MANY_GROUPS:
        return FALLBACK, given
    return "local", {"agent": BUILT_IN}


__all__ = [
    "AUTO",
    "BUILT_IN",
    "FALLBACK",
    "STRATEGIES",
    "check_strategy",
    "check_unbounded",
    "make_strategy",
    "resolve",
    "strategy_class",
]
