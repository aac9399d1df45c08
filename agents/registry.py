"""Search strategies by name; a strategy is imported once it is chosen, for some are heavy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.core.plugins import Kind
from autoprune.errors import UsageError, did_you_mean, spelt

if TYPE_CHECKING:  # they bring PyTorch along: a wrong name is refused without it
    from autoprune.agents.base import SearchProblem, Strategy

Wanted: TypeAlias = "str | Strategy | type[Strategy]"
"""A name, `path/to/file.py:Name`, `package.module:Name`, an entry point, or the strategy itself."""

AUTO, FALLBACK = "auto", "bayes"
KIND = Kind(
    "strategy",
    "autoprune.strategies",
    {
        "surrogate": "autoprune.agents.surrogate:SurrogateStrategy",
        "local": "autoprune.agents.local_search:LocalSearchStrategy",
        "ddpg": "autoprune.agents.ddpg.agent:DdpgStrategy",
        "netadapt": "autoprune.agents.netadapt:NetAdaptStrategy",
        "bayes": "autoprune.agents.bayes.strategy:BayesianStrategy",
        "knapsack": "autoprune.agents.knapsack:KnapsackStrategy",
        "evolution": "autoprune.agents.evolution:EvolutionStrategy",
        "sensitivity": "autoprune.agents.sensitivity:SensitivityStrategy",
        "global": "autoprune.agents.global_ranking:GlobalStrategy",
        "random": "autoprune.agents.random_search:RandomStrategy",
        "uniform": "autoprune.agents.uniform:UniformStrategy",
        "deep": "autoprune.agents.uniform:DeepStrategy",
        "shallow": "autoprune.agents.uniform:ShallowStrategy",
        "rl:ppo": "autoprune.agents.reinforcement:PpoStrategy",
        "rl:sac": "autoprune.agents.reinforcement:SacStrategy",
        "rl:td3": "autoprune.agents.reinforcement:Td3Strategy",
        "recall": "autoprune.agents.recall:RecallStrategy",
        "given": "autoprune.agents.given:GivenStrategy",
    },
    special=(AUTO,),
)
STRATEGIES = (AUTO, *sorted(KIND.built_in))
# Options with a flag of their own, by the strategies that have them.
FLAGS = {"sampler": ("bayes",), "agent": ("ddpg", "local"), "from_run": ("recall",)}
# What "auto" stands for, with a budget and without one: the first that has the options given.
_BOUNDED, _UNBOUNDED = ("surrogate", FALLBACK, "ddpg"), (FALLBACK, "ddpg")


def strategy_class(name: str) -> type[Strategy]:
    """Return the class of a strategy that comes with autoprune; for "auto" the usual one.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; {did_you_mean(name, STRATEGIES)}")
    found: type[Strategy] = KIND.load(FALLBACK if name == AUTO else name)
    return found


def find_strategy(wanted: Wanted, **options: Any) -> Strategy:
    """Return the strategy that is meant, made with its options and not yet started.

    Args:
        wanted: the strategy; "auto" has no options and is resolved first (`resolve`).
        **options: fields of its config.

    Raises:
        UsageError: there is no such strategy, or an option is unknown, of the wrong type or out of
            range.
    """
    from autoprune.agents.base import Strategy
    from autoprune.agents.custom import CustomStrategy

    made: Strategy = KIND.make(wanted, Strategy, **options)  # type: ignore[type-abstract]
    if KIND.name_of(made) in KIND.built_in:
        return made
    return CustomStrategy(KIND.name_of(wanted), made)


def check_strategy(wanted: Wanted, **options: Any) -> None:
    """Refuse unknown strategies and misplaced options before any work is done.

    Args:
        wanted: the strategy, or "auto".
        **options: fields of its config; None where nothing was said.

    Raises:
        UsageError: no such strategy, an option that it does not have, or a bad value.
    """
    given = _given(options)
    if wanted == AUTO:
        wanted = _taker(_BOUNDED, given)
    elif isinstance(wanted, str):
        KIND.check_name(wanted)
        for option in given.keys() & FLAGS.keys() if wanted in KIND.built_in else ():
            if wanted not in FLAGS[option]:
                able = " or ".join(map(repr, FLAGS[option]))
                raise UsageError(
                    f"{spelt(option)} is for the strategy {able}; {wanted!r} has none."
                )
    find_strategy(wanted, **given).check()


def check_unbounded(wanted: Wanted, **options: Any) -> None:
    """Refuse a strategy that needs a budget where there is none.

    Args:
        wanted: the strategy, or "auto".
        **options: fields of its config; None where nothing was said.

    Raises:
        UsageError: it does.
    """
    chosen = _taker(_UNBOUNDED, _given(options)) if wanted == AUTO else wanted
    if find_strategy(chosen, **_given(options)).needs_budget:
        able = [name for name in sorted(KIND.built_in) if not strategy_class(name).needs_budget]
        raise UsageError(
            f"the strategy {KIND.name_of(wanted)!r} needs a budget: give one, e.g. flops=0.5, or "
            f"choose the strategy {' or '.join(map(repr, able))}."
        )


def make_strategy(
    wanted: Wanted,
    problem: SearchProblem,
    begun: Mapping[str, Any] | None = None,
    /,
    **options: Any,
) -> Strategy:
    """Return the strategy that is meant, started on a problem.

    Args:
        wanted: the strategy, or "auto".
        problem: what is searched.
        begun: all options that the search was begun with; today's defaults may be others.
        **options: fields of its config; None where nothing was said.

    Raises:
        UsageError: see `check_strategy`.
    """
    check_strategy(wanted, **options)
    chosen, given = resolve(wanted, problem, **options)
    return find_strategy(chosen, **given).with_options({**(begun or {}), **given}).started(problem)


def resolve(wanted: Any, problem: SearchProblem, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the strategy that is meant, and the options that are given.

    That is, for "auto", the one that is best for the problem by our measurements (docs/results.md).
    """
    given = _given(options)
    if wanted != AUTO:
        return wanted, given
    bounded = problem.projection.constraints and len(problem.space) > 1
    return _taker(_BOUNDED if bounded else _UNBOUNDED, given), given


def options_of(strategy: Strategy) -> dict[str, Any]:
    """Return what `find_strategy` must be given to make the same strategy from its name."""
    from autoprune.agents.config import changes

    return changes(strategy.config, type(strategy).config)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _taker(names: Sequence[str], given: Mapping[str, Any]) -> str:
    """Return the first of the strategies that "auto" may stand for that has all options given."""
    for option in given:
        if option not in FLAGS:
            raise UsageError(
                f"'auto' stands for several strategies: name the one whose option {option!r} is."
            )
    for taker in _takers(names, given):
        return taker
    if len(given) == 1:
        (option,) = given
        able = " or ".join(map(repr, FLAGS[option]))
        raise UsageError(f"{spelt(option)} is for the strategy {able}; 'auto' has none.")
    raise UsageError(f"no strategy has both {' and '.join(map(spelt, given))}: give one of them.")


def _takers(names: Sequence[str], given: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in names if all(name in FLAGS[option] for option in given))
