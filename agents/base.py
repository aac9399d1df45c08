"""The contract of a search strategy: it proposes candidates and learns from their trials."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.agents.config import NoOptions, configured
from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.errors import UsageError, shown
from autoprune.importance.base import Ranking
from autoprune.search_spaces.episode import Episode
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Projection
from autoprune.study.trial import Candidate, Trial

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """What a strategy is given to work with.

    Attributes:
        space: allowed widths.
        projection: onto the budget; without constraints where there is none.
        costs: every cost model, by name.
        rankings: of the groups' units, with the errors and losses that are known.
        group_features: what kind of layers the groups' channels come from and go to.
        trials: how many evaluations there will be. A search that is resumed with another number
            keeps to the first one, so that it proposes what it proposed before.
        seed: of all randomness.
        at_once: candidates that are on their way at once, if the strategy need not await them.
        starts: widths that are known to be good, within the budget; strategies that have warm
            starts begin with them.
        known: candidates that an earlier search of the same problem evaluated, best first; asked
            for again, they are answered at no cost. `tools.warm_starts` begins with them.
    """

    space: SearchSpace
    projection: Projection
    costs: Mapping[str, CostModel]
    rankings: Sequence[Ranking]
    group_features: Sequence[GroupFeatures]
    trials: int
    seed: int
    at_once: int = 1
    starts: tuple[Widths, ...] = ()
    known: Sequence[Trial] = ()

    def episode(self) -> Episode:
        """Return the rules of deciding group after group."""
        costs = list(self.costs.values())
        return Episode(self.space, self.projection, costs, self.group_features, self.rankings)


def best_first(values: Mapping[Widths, float | None]) -> list[Widths]:
    """Return the widths whose value is known, best first."""
    known = {widths: value for widths, value in values.items() if value is not None}
    return sorted(known, key=lambda widths: -known[widths])


class Strategy(ABC):
    """Chooses how many units each group keeps.

    A strategy is made with its options and then started on a problem. The loop calls `ask`,
    evaluates, and calls `tell` with the trial, in strict alternation. Candidates that need not be
    awaited are the exception: several may be evaluated at once, and their trials are told in the
    order of the candidates. Widths that were evaluated before are answered from the record in their
    turn and cost no evaluation. With the same problem and the same answers at the same times a
    strategy proposes the same candidates: a search is resumed by replaying its record.

    A strategy with options has a frozen dataclass of them, with its defaults as the class attribute
    `config`:

        @dataclass(frozen=True)
        class ClimbingConfig:
            step: float = 0.1

        class Climbing(Strategy):
            config = ClimbingConfig()

    `Climbing(step=0.2)`, and `[strategy."climbing.py:Climbing"]` with `step = 0.2` in a TOML file,
    set `self.config`.

    Attributes:
        name: what it is called in `--strategy` and in messages.
        needs_budget: whether it can only choose under a budget.
        finalists: how many of its trials are worth a careful repair; None for as many as the
            engine looks at again.
        config: its options.
        problem: that it was started on.
        agent_from: where what it knew at the start was learnt: path, groups of the networks,
            episodes.
    """

    name: str = ""
    needs_budget: bool = True
    finalists: int | None = None
    config: Any = NoOptions()
    problem: SearchProblem
    agent_from: Mapping[str, Any] | None = None

    def __init__(self, config: Any = None, **options: Any) -> None:
        """Take a config, or the options in it that are not the defaults.

        Raises:
            UsageError: an option that there is not, of the wrong type, or out of range.
        """
        owner, defaults = self.name or type(self).__name__, type(self).config
        if config is not None and not isinstance(config, type(defaults)):
            wanted = type(defaults).__name__
            raise UsageError(f"the strategy {owner!r} takes a {wanted}, but got {shown(config)}.")
        self.config = configured(
            defaults if config is None else config, options, f"the strategy {owner!r}"
        )

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """Return the same strategy with some options replaced.

        Raises:
            UsageError: an option that there is not, of the wrong type, or out of range.
        """
        if not options:
            return self
        fresh = copy.copy(self)
        fresh.config = configured(self.config, options, f"the strategy {self.name!r}")
        return fresh

    def check(self) -> None:  # noqa: B027
        """Refuse options that cannot be used, before any work is done; overridden where needed.

        Raises:
            UsageError: a file that is missing or does not fit, say.
        """

    def started(self, problem: SearchProblem) -> Self:
        """Return a fresh copy that is ready to work on a problem; this one stays as it is.

        A search that goes on in rounds starts a strategy once for each.
        """
        fresh = copy.deepcopy(self)
        fresh.problem = problem
        fresh.start(problem)
        return fresh

    def start(self, problem: SearchProblem) -> None:  # noqa: B027
        """Prepare for a problem, which `self.problem` holds already; overridden where needed."""

    @abstractmethod
    def ask(self) -> Candidate | None:
        """Return what to evaluate next, None if there is nothing left to try."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Learn from the trial of the earliest candidate whose trial was not told yet."""

    def save(self, folder: Path) -> bool:
        """Write what was learnt for other networks into a folder; return whether there is any."""
        return False


__all__ = ["Candidate", "SearchProblem", "Strategy", "Trial", "best_first"]
