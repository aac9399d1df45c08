"""No search: widths that are known already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.errors import BudgetError, UsageError
from autoprune.study.recorded_widths import allowed_widths_in
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class GivenConfig:
    """What is cut.

    Attributes:
        widths: units that every group keeps, by its name.
    """

    widths: Mapping[str, Count] = field(default_factory=dict)


class GivenStrategy(ScriptedStrategy):
    """One candidate: the widths that its options give."""

    name = "given"
    finalists = 1
    config = GivenConfig()

    def __init__(self, config: Any = None, **options: Any) -> None:
        """Take the widths, which need no budget."""
        super().__init__(config, **options)
        self.needs_budget = not self.config.widths

    def check(self) -> None:
        """Refuse to begin without widths.

        Raises:
            UsageError: there are none.
        """
        if not self.config.widths:
            raise UsageError(
                "the strategy 'given' needs the widths of all groups: give them in a TOML file, as "
                "[strategy.given.widths], or as strategy_config={'widths': {…}}."
            )

    def start(self, problem: SearchProblem) -> None:
        """Look up the groups.

        Raises:
            RunError: the widths are of other groups.
            UsageError: one is not allowed.
            BudgetError: they exceed the budget.
        """
        super().start(problem)
        whose = "the network of the given widths"
        self._widths = allowed_widths_in(problem.space, self.config.widths, whose)
        if not problem.projection.fits(self._widths):
            raise BudgetError("the given widths exceed the budget: raise it, or leave it out.")

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the one candidate."""
        yield [Candidate(self._widths)]
