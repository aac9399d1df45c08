"""A strategy that the user wrote, whose faults become one clear line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.agents.base import Candidate, SearchProblem, Strategy, Trial
from autoprune.errors import AutopruneError, StrategyError, shown, user_code

if TYPE_CHECKING:
    from typing_extensions import Self


class CustomStrategy(Strategy):
    """Passes everything on to a custom strategy, and checks what it proposes.

    Widths over the budget are left to the search, for which they are a failed trial.
    """

    def __init__(self, name: str, strategy: Strategy) -> None:
        """Take a strategy and the name that its user knows it by."""
        self.name = name
        self._strategy = strategy
        self._mirror()

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Return the same with some options of the strategy replaced."""
        return type(self)(self.name, self._strategy.with_options(options))

    def check(self) -> None:
        """Let the strategy check its options."""
        with self._named("check"):
            self._strategy.check()

    def started(self, problem: SearchProblem) -> Self:
        """Return a fresh copy of both."""
        fresh = type(self)(self.name, self._strategy)
        fresh.problem = problem
        with self._named("start"):
            fresh._strategy = self._strategy.started(problem)
        fresh._mirror()
        if not (fresh.finalists is None or (type(fresh.finalists) is int and fresh.finalists > 0)):
            raise StrategyError(
                f"the strategy {self.name!r} has finalists={shown(fresh.finalists)}: it must be a "
                "whole number above zero, or None."
            )
        return fresh

    def ask(self) -> Candidate | None:
        """Return what the strategy proposes.

        Raises:
            StrategyError: it raises, or proposes something else than allowed widths.
        """
        with self._named("ask"):
            candidate = self._strategy.ask()
        if candidate is None:
            return None
        if not isinstance(candidate, Candidate):
            raise StrategyError(
                f"the strategy {self.name!r} proposed {shown(candidate)}, which is not a "
                "Candidate: ask() must return Candidate(widths), or None at the end."
            )
        if not self._allows(candidate):
            space = self.problem.space
            raise StrategyError(
                f"the strategy {self.name!r} proposed {shown(candidate.widths)}: widths must be a "
                f"tuple of {len(space)} whole numbers from {space.lowest} to {space.sizes}; "
                "self.problem.projection.project(ratios) returns such widths."
            )
        return candidate

    def tell(self, trial: Trial) -> None:
        """Tell the strategy."""
        with self._named("tell"):
            self._strategy.tell(trial)
        self._mirror()

    def save(self, folder: Path) -> bool:
        """Let the strategy save what it learnt."""
        with self._named("save"):
            return self._strategy.save(folder)

    def _mirror(self) -> None:
        """Have the attributes of the strategy, which it may set whenever it is called."""
        inner = self._strategy
        self.needs_budget, self.finalists = inner.needs_budget, inner.finalists
        self.config, self.agent_from = inner.config, inner.agent_from

    def _allows(self, candidate: Candidate) -> bool:
        widths = candidate.widths
        return (
            isinstance(widths, tuple)
            and all(type(width) is int for width in widths)
            and self.problem.space.contains(widths)
        )

    @contextmanager
    def _named(self, method: str) -> Iterator[None]:
        def failed(reason: str) -> StrategyError:
            return StrategyError(f"the strategy {self.name!r} failed in {method}(): {reason}")

        with user_code(failed, passes=(AutopruneError,)):
            yield
