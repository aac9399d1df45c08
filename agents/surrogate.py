"""Search led by a regression of the reward on the widths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from autoprune.agents.course import CourseStrategy
from autoprune.agents.global_ranking import warm_starts
from autoprune.agents.moves import swap
from autoprune.agents.response import Response
from autoprune.policy import Widths
from autoprune.strategy import Candidate, SearchProblem

# Measured before the regression leads, and the share of the trials that they may be.
STARTS, START_SHARE = 16, 0.3
# Standard deviation of the logarithms of their keep ratios, before projection.
SPREAD = 0.3
# So many walks from the best widths, of a few swaps at most.
WALKS, LONGEST = 200, 3
# Widths drawn anew beside them.
DRAWN = 50
# Standard deviations of what is not known that count in favour of a candidate.
HOPE = 0.5


class SurrogateStrategy(CourseStrategy):
    """Measures what a regression on everything measured so far expects most of.

    After the known warm starts and some random widths, hundreds of candidates are ranked for each
    that is measured: swaps around the best, and a few drawn anew. Candidates of which little is
    known get the benefit of the doubt (the upper confidence bound of Srinivas et al. 2010,
    "Gaussian Process Optimization in the Bandit Setting").
    """

    name: ClassVar[str] = "surrogate"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._random = np.random.default_rng(problem.seed)
        self._response = Response(problem)

    def _course(self) -> Iterator[Iterable[Candidate]]:
        starts = warm_starts(self.problem)
        count = max(min(STARTS, round(START_SHARE * self.problem.trials)), len(starts))
        yield map(Candidate, starts + [self._drawn() for _ in range(count - len(starts))])
        while promising := self._promising():
            yield map(Candidate, promising)

    def _promising(self) -> list[Widths]:
        """Return as many of the best candidates as can be measured at once; none if all are known.

        Of swaps and widths drawn anew.
        """
        good = list(filter(self.problem.projection.fits, self._values))
        best = max(good, key=lambda widths: self._values[widths], default=self._drawn())
        pool = {self._walked(best) for _ in range(WALKS)} | {self._drawn() for _ in range(DRAWN)}
        new = sorted(widths for widths in pool if Candidate(widths) not in self._asked)
        return self._response.rank(new, self._values, HOPE)[: self.problem.workers]

    def _drawn(self) -> Widths:
        logs = SPREAD * self._random.standard_normal(len(self.problem.space))
        return self.problem.projection.project(np.exp(logs))

    def _walked(self, widths: Widths) -> Widths:
        """Return what a few swaps lead to."""
        projection = self.problem.projection
        for _ in range(self._random.integers(1, LONGEST, endpoint=True)):
            widths = swap(widths, projection, self._random) or widths
        return projection.fill(widths)
