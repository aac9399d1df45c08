"""The names of the strategies, and where each is: known without importing any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from autoprune.core.plugins import is_entry_point
from autoprune.errors import UsageError, did_you_mean, shown

# Imported when they are chosen: some need heavy libraries.
PLACES = {
    "bayes": "autoprune.agents.bayes.strategy:BayesianStrategy",
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
    "surrogate": "autoprune.agents.surrogate:SurrogateStrategy",
    "uniform": "autoprune.agents.uniform:UniformStrategy",
}
AUTO = "auto"
STRATEGIES = (AUTO, *sorted(PLACES))
ENTRY_POINTS = "autoprune.strategies"
"""The group of entry points by which installed packages offer strategies."""


def check_strategy_name(name: str) -> None:
    """Refuse what can name no strategy; nothing is imported.

    Raises:
        UsageError: it is neither a known name nor of the form of an object's.
    """
    place, _, attribute = name.rpartition(":")
    names_object = bool(place) and attribute.isidentifier() and f"{place}:" != "rl:"
    if not (name in STRATEGIES or names_object or is_entry_point(name, ENTRY_POINTS)):
        raise UsageError(f"unknown strategy {name!r}; {did_you_mean(name, STRATEGIES)}")


def check_strategy_config(name: str, config: Mapping[str, Any]) -> None:
    """Refuse options that a strategy does not have; `Config`, a dataclass in it, declares them.

    Only strategies that come with autoprune are looked at: no other code is imported for this.

    Raises:
        UsageError: an option is unknown.
    """
    if not config or name not in STRATEGIES:
        return
    if name == AUTO:
        raise UsageError(f"name the strategy that has the option {next(iter(config))!r}.")
    module, _, attribute = PLACES[name].partition(":")
    declared = getattr(getattr(import_module(module), attribute), "Config", None)
    known = [] if declared is None else [field.name for field in fields(declared)]
    for key in config:
        if key not in known:
            hint = did_you_mean(key, known) if known else "it has none."
            raise UsageError(f"the strategy {name!r} has no option {key!r}; {hint}")


def with_strategy_config(values: Mapping[str, Any], chosen: str | None = None) -> dict[str, Any]:
    """Return options in which the table `[strategy.NAME]` says both the strategy and its config.

    Args:
        values: plain options of a search; `strategy` may be a table of tables.
        chosen: the strategy that the command line chooses, if it does: its table alone counts then.

    Raises:
        UsageError: several strategies have tables and none was chosen, or a value is not a table.
    """
    plain, named = dict(values), values.get("strategy")
    if isinstance(named, Mapping):
        for name, table in named.items():
            if not isinstance(table, Mapping):
                raise UsageError(
                    f"strategy must be a name or tables such as [strategy.{name}], but its "
                    f"{name!r} is {shown(table)}."
                )
        if chosen is None and len(named) != 1:
            raise UsageError(
                f"there are tables of the strategies {', '.join(map(repr, named))}: choose one "
                "with --strategy."
            )
        name = next(iter(named)) if chosen is None else chosen
        return {**plain, "strategy": name, "strategy_config": dict(named.get(name, {}))}
    if chosen not in (None, named):
        plain.pop("strategy_config", None)
    return plain
