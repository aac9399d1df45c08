"""Who chooses the widths: search strategies, by name."""

from __future__ import annotations

from autoprune.agents.global_ranking import GlobalStrategy
from autoprune.agents.random_search import RandomStrategy
from autoprune.agents.uniform import UniformStrategy
from autoprune.errors import UsageError, did_you_mean
from autoprune.strategy import SearchProblem, Strategy

STRATEGIES = ("auto", "bayes", "global", "random", "uniform")


def check_strategy(name: str, sampler: str | None) -> None:
    """Refuse unknown names before any work is done.

    Raises:
        UsageError: no such strategy, no such sampler, or a strategy without samplers.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; {did_you_mean(name, STRATEGIES)}")
    if sampler is not None:
        if name not in ("auto", "bayes"):
            raise UsageError(f"--sampler is for the strategy 'bayes'; {name!r} has none.")
        from autoprune.agents.bayesian import SAMPLERS

        if sampler not in SAMPLERS:
            raise UsageError(f"unknown sampler {sampler!r}; {did_you_mean(sampler, SAMPLERS)}")


def make_strategy(name: str, problem: SearchProblem, sampler: str | None = None) -> Strategy:
    """Return the strategy of that name ("auto" is "bayes" with TPE).

    Raises:
        UsageError: see `check_strategy`.
    """
    check_strategy(name, sampler)
    if name == "uniform":
        return UniformStrategy(problem)
    if name == "random":
        return RandomStrategy(problem)
    if name == "global":
        return GlobalStrategy(problem)
    from autoprune.agents.bayesian import BayesianStrategy

    return BayesianStrategy(problem, sampler) if sampler else BayesianStrategy(problem)


__all__ = ["STRATEGIES", "check_strategy", "make_strategy"]
