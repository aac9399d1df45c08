"""The tables `[strategy.NAME]` of TOML files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.errors import UsageError, shown


def unused_tables(values: Mapping[str, Any], chosen: str | None) -> list[str]:
    """Return the tables of options that do not count since the command line chooses a strategy."""
    named = values.get("strategy")
    if chosen is None or chosen == named:
        return []
    if isinstance(named, Mapping):
        return [f"[strategy.{name}]" for name in named if name != chosen]
    return ["[strategy_config]"] if values.get("strategy_config") else []


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
                f"there are tables of the strategies {', '.join(map(repr, named))}: keep "
                "one, or choose one with --strategy on the command line."
            )
        name = next(iter(named)) if chosen is None else chosen
        return {**plain, "strategy": name, "strategy_config": dict(named.get(name, {}))}
    if chosen not in (None, named):
        plain.pop("strategy_config", None)
    return plain
