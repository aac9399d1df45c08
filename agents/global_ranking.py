"""One ranking over the whole network: cut where the least loss buys the most budget."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from autoprune.agents.base import SearchProblem
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.policy import Widths
from autoprune.errors import UsageError
from autoprune.search_spaces.greedy import least_loss
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Projection
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class GlobalConfig:
    """Where a ranking is cut if no budget says so.

    Attributes:
        threshold: without a budget, units with larger scores stay; None if there is a budget.
    """

    threshold: float | None = None


class GlobalStrategy(ScriptedStrategy):
    """One candidate by the criterion alone; nothing is evaluated.

    Where units are scored on one scale for all groups, those below one threshold go (Network
    Slimming, Liu et al. 2017, section 3.2). Else the losses to expect decide: starting from the
    dense network, the group whose best cut loses least for what it saves is cut, until the budget
    holds. Savings are those of the exact cost model at the current widths: a layer's cost is a
    product of two widths, so every cut changes its neighbours' prices.
    """

    name = "global"
    config = GlobalConfig()

    def __init__(self, config: Any = None, **options: Any) -> None:
        """Take the options; a threshold on scores can stand instead of a budget."""
        super().__init__(config, **options)
        self.needs_budget = self.config.threshold is None

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
        by_losses = not self._has_scores
        widths = least_loss(own.projection, own.rankings) if by_losses else self._by_scores()
        yield [Candidate(widths)]

    def _by_scores(self) -> Widths:
        own = self.problem
        scores = [np.asarray(ranking.scores, dtype=float) for ranking in own.rankings]
        if own.projection.constraints:
            return threshold(own.projection, scores)
        assert self.config.threshold is not None  # it needs a budget without
        return above(own.space, scores, self.config.threshold)


def threshold(projection: Projection, scores: Sequence[Float64[np.ndarray, " _units"]]) -> Widths:
    """Return the widths at the least threshold on all scores with which the budget holds."""

    def fits(limit: float) -> bool:
        return projection.fits(above(projection.space, scores, limit))

    limits = np.concatenate([[-np.inf], np.unique(np.concatenate(scores))])
    limit = limits[bisect.bisect_left(limits, True, key=fits)]
    return projection.fill(above(projection.space, scores, limit))


def above(
    space: SearchSpace, scores: Sequence[Float64[np.ndarray, " _units"]], limit: float
) -> Widths:
    """Return how many units of every group have a larger score, rounded down to allowed widths."""
    widths = [np.count_nonzero(own > limit) for own in scores]
    return space.round_down(np.asarray(widths, dtype=float))
