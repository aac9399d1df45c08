"""Who chooses the widths: search strategies, by name."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.errors import UsageError, did_you_mean
from autoprune.options.strategies import AUTO, PLACES, STRATEGIES

FALLBACK = "bayes"
# What "auto" stands for, under a budget and without one: the first that has the options given.
_BOUNDED, _UNBOUNDED = ("surrogate", FALLBACK, "ddpg"), (FALLBACK, "ddpg")


def strategy_class(name: str) -> type[Strategy]:
    """Return the strategy of that name; for "auto" the usual one.

    Raises:
        UsageError: there is none.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; {did_you_mean(name, STRATEGIES)}")
    module, _, attribute = PLACES[FALLBACK if name == AUTO else name].partition(":")
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
    given = _given(options)
    strategy_class(name)
    stands_for = _BOUNDED if name == AUTO else (name,)
    for option in given:
        if not any(_takers(stands_for, (option,))):
            able = " or ".join(map(repr, _takers(sorted(PLACES), (option,))))
            raise UsageError(f"{_flag(option)} is for the strategy {able}; {name!r} has none.")
    strategy_class(_taker(stands_for, given)).check_options(**given)


def _taker(names: Sequence[str], given: Mapping[str, Any]) -> str:
    """Return the first of some strategies that has all of the options given."""
    for taker in _takers(names, given):
        return taker
    raise UsageError(f"no strategy has both {' and '.join(map(_flag, given))}: give one of them.")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _takers(names: Iterable[str], options: Collection[str]) -> Iterator[str]:
    """Yield those of some strategies that have all of these options; no more are imported."""
    return (name for name in names if set(options) <= set(strategy_class(name).options))


def _flag(option: str) -> str:
    return f"--{option.removesuffix('_run')}"


def check_unbounded(name: str) -> None:
    """Refuse a strategy that needs a budget where there is none.

    Raises:
        UsageError: it does.
    """
    if strategy_class(name).needs_budget:
        able = [n for n in sorted(PLACES) if not strategy_class(n).needs_budget]
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
    given = _given(options)
    if name != AUTO:
        return name, given
    bounded = problem.projection.constraints and len(problem.space) > 1
    return _taker(_BOUNDED if bounded else _UNBOUNDED, given), given


__all__ = [
    "AUTO",
    "FALLBACK",
    "STRATEGIES",
    "check_strategy",
    "check_unbounded",
    "make_strategy",
    "resolve",
    "strategy_class",
]
