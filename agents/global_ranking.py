"""One ranking over the whole network: cut where the least error buys the most budget."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.agents.moves import descend
from autoprune.errors import UsageError
from autoprune.policy import Widths
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial


class GlobalStrategy(Strategy):
    """One candidate, by the criterion's reconstruction errors per cost; nothing is evaluated.

    Starting from the dense network, the group whose best cut loses the least error for what it
    saves is cut, until the budget holds. Savings are those of the exact cost model at the current
    widths: a layer's cost is a product of two widths, so every cut changes its neighbours' prices.
    """

    name: ClassVar[str] = "global"

    def __init__(self, problem: SearchProblem) -> None:
        """Look at the rankings.

        Raises:
            UsageError: the criterion gives no errors.
        """
        super().__init__(problem)
        if any(ranking.errors is None for ranking in problem.rankings):
            raise UsageError(
                "the strategy 'global' needs an importance with error curves: choose 'obs'."
            )
        self._asked = False

    def ask(self) -> Candidate | None:
        """Return the ranking's candidate once."""
        if self._asked:
            return None
        self._asked = True
        return Candidate(least_error(self.problem))

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""


def least_error(problem: SearchProblem) -> Widths:
    """Return widths on the budget that lose little reconstruction error, greedily."""
    curves = [np.asarray(ranking.errors) for ranking in problem.rankings]
    return problem.projection.fill(descend(problem.space.sizes, curves, problem.projection))
