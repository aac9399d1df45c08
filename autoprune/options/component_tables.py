"""The tables `[strategy.NAME]` and `[method.NAME]` of TOML files: a component and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.errors import UsageError, shown


def unused_tables(values: Mapping[str, Any], kind: str, chosen: str | None) -> list[str]:
    """Return the tables of options that do not count since the command line chooses a component.

    Args:
        values: plain options.
        kind: "strategy" or "method".
        chosen: what the command line chooses, if it does.
    """
    named = values.get(kind)
    if chosen is None or chosen == named:
        return []
    if isinstance(named, Mapping):
        return [f"[{kind}.{name}]" for name in named if name != chosen]
    return [f"[{kind}_config]"] if values.get(f"{kind}_config") else []


def with_config(values: Mapping[str, Any], kind: str, chosen: str | None = None) -> dict[str, Any]:
    """Return options in which the table `[strategy.NAME]` says both the strategy and its config.

    Args:
        values: plain options; "strategy" may be a table of tables.
        kind: "strategy", or "method" for the same of that.
        chosen: what the command line chooses, if it does: its table alone counts then.

    Raises:
        UsageError: several components have tables and none was chosen, or a value is not a table.
    """
    plain, named = dict(values), values.get(kind)
    if isinstance(named, Mapping):
        for name, table in named.items():
            if not isinstance(table, Mapping):
                raise UsageError(
                    f"{kind} must be a name or tables such as [{kind}.{name}], but its "
                    f"{name!r} is {shown(table)}."
                )
        if chosen is None and len(named) != 1:
            several = {"strategy": "strategies"}.get(kind, f"{kind}s")
            raise UsageError(
                f"there are tables of the {several} {', '.join(map(repr, named))}: keep "
                f"one, or choose one with --{kind} on the command line."
            )
        name = next(iter(named)) if chosen is None else chosen
        return {**plain, kind: name, f"{kind}_config": dict(named.get(name, {}))}
    if chosen not in (None, named):
        plain.pop(f"{kind}_config", None)
    return plain
