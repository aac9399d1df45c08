"""The contract of a search strategy: it proposes candidates and learns from their trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.errors import UsageError
from autoprune.importance.base import Ranking
from autoprune.search_spaces.episode import Episode
from autoprune.search_spaces.group_features import GroupTraits
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Projection
from autoprune.study.trial import Candidate, Trial


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """What a strategy is given to work with.

    Attributes:
        space: allowed widths.
        projection: onto the budget; without constraints where there is none.
        costs: every cost model, by name.
        rankings: of the groups' units, with the errors and losses that are known.
        traits: what kind of layers the groups' channels come from and go to.
        trials: how many evaluations there will be. A search resumed with others keeps to those that
            it was begun with: what was asked stays true, and it goes on from there.
        seed: of all randomness.
        workers: candidates that can be evaluated at once.
    """

    space: SearchSpace
    projection: Projection
    costs: Mapping[str, CostModel]
    rankings: Sequence[Ranking]
    traits: Sequence[GroupTraits]
    trials: int
    seed: int
    workers: int = 1

    def episode(self) -> Episode:
        """Return the rules of deciding group after group."""
        costs = list(self.costs.values())
        return Episode(self.space, self.projection, costs, self.traits, self.rankings)


def best_first(values: Mapping[Widths, float | None]) -> list[Widths]:
    """Return the widths whose value is known, best first."""
    known = {widths: value for widths, value in values.items() if value is not None}
    return sorted(known, key=lambda widths: -known[widths])


class Strategy(ABC):
    """Chooses how many units each group keeps.

    The loop calls `ask`, evaluates, and calls `tell` with the trial: in strict alternation unless
    candidates need not be awaited, of which several may be on their way; trials are told in the
    order in which they were asked for. Widths that were evaluated before are answered from the
    record in their turn and cost no evaluation. With the same problem and the same answers at the
    same times a strategy asks the same questions: a search is resumed by replaying its record.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    """Whether it has nothing to choose where no budget says how much must go."""
    options: ClassVar[tuple[str, ...]] = ()
    """Fields of `SearchConfig` that are for this strategy; its constructor takes them by name."""

    agent_from: Mapping[str, Any] | None = None
    """Where what it knew at the start was learnt: path, groups of the networks, episodes."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Refuse options that this strategy does not have; overridden where values can be bad.

        Raises:
            UsageError: an option, or a value, that means nothing here.
        """
        for option in options:
            if option not in cls.options:
                raise UsageError(f"the strategy {cls.name!r} has no option {option!r}.")

    @abstractmethod
    def ask(self) -> Candidate | None:
        """Return what to evaluate next, None if there is nothing left to try."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Learn from the trial of the earliest candidate that was asked for and not told of."""

    def save(self, folder: Path) -> bool:
        """Write what was learnt for other networks into a folder; return whether there is any."""
        return False
