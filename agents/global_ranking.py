"""One ranking over the whole network: cut where the least error buys the most budget."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.agents.curves import with_width
from autoprune.errors import UsageError
from autoprune.policy import Widths
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial

# A cut takes at most this part of a group at once, before prices are looked at again.
STEPS_PER_GROUP = 16


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
    widths = problem.space.sizes
    while not problem.projection.fits(widths):
        cuts = [cut for g in range(len(widths)) if (cut := _best_cut(problem, widths, g))]
        widths = min(cuts)[1]
    return problem.projection.fill(widths)


def warm_starts(problem: SearchProblem) -> list[Widths]:
    """Return the candidates that are known before any search."""
    uniform = problem.projection.project(np.ones(len(problem.space)))
    if any(ranking.errors is None for ranking in problem.rankings):
        return [uniform]
    return [uniform, least_error(problem)]


def _best_cut(problem: SearchProblem, widths: Widths, group: int) -> tuple[float, Widths] | None:
    """Return (error per saving, widths) of a group's best cut at the current widths."""
    levels, now = problem.space.levels[group], widths[group]
    lower = levels[levels < now]
    errors = problem.rankings[group].errors
    if not len(lower) or errors is None:
        return None
    # Error curves need not be convex: a cut is as cheap as the cheapest way down from here.
    slopes = (np.asarray(errors)[lower] - errors[now]) / (now - lower)
    cheapest = int(slopes.argmin())
    step_floor = now - max(problem.space.sizes[group] // STEPS_PER_GROUP, 1)
    reached = max(lower[cheapest], lower[lower <= max(step_floor, lower[0])][-1])
    one_down = with_width(widths, group, int(lower[-1]))
    saved = problem.projection.excess(widths) - problem.projection.excess(one_down)
    # A cost that is a maximum falls only once all its largest layers are cut.
    per_saving = slopes[cheapest] * (now - lower[-1]) / max(saved, 1e-12)
    return float(per_saving), with_width(widths, group, int(reached))
