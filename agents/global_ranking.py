"""One ranking over the whole network: cut where the least loss buys the most budget."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.policy import Widths
from autoprune.errors import UsageError
from autoprune.search_spaces.greedy import least_loss
from autoprune.study.trial import Candidate


class GlobalStrategy(ScriptedStrategy):
    """One candidate by the criterion alone; nothing is evaluated.

    Where units are scored on one scale for all groups, those below one threshold go (Network
    Slimming, Liu et al. 2017, section 3.2). Else the losses to expect decide: starting from the
    dense network, the group whose best cut loses least for what it saves is cut, until the budget
    holds. Savings are those of the exact cost model at the current widths: a layer's cost is a
    product of two widths, so every cut changes its neighbours' prices.
    """

    name = "global"

    def start(self, problem: SearchProblem) -> None:
        """Look at the rankings.

        Raises:
            UsageError: the criterion gives neither scores nor errors.
        """
        super().start(problem)
        self._has_scores = all(ranking.scores is not None for ranking in problem.rankings)
        if not self._has_scores and any(ranking.errors is None for ranking in problem.rankings):
            raise UsageError(
                "the strategy 'global' needs an importance with error curves or scores that are "
                "comparable across groups: choose 'obs'."
            )

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the one candidate."""
        own = self.problem
        widths = threshold(own) if self._has_scores else least_loss(own.projection, own.rankings)
        yield [Candidate(widths)]


def threshold(problem: SearchProblem) -> Widths:
    """Return the widths at the least threshold on all scores with which the budget holds."""
    scores = [np.asarray(ranking.scores, dtype=float) for ranking in problem.rankings]

    def above(limit: float) -> Widths:
        widths = [np.count_nonzero(own > limit) for own in scores]
        return problem.space.round_down(np.asarray(widths, dtype=float))

    def fits(limit: float) -> bool:
        return problem.projection.fits(above(limit))

    limits = np.concatenate([[-np.inf], np.unique(np.concatenate(scores))])
    return problem.projection.fill(above(limits[bisect.bisect_left(limits, True, key=fits)]))
