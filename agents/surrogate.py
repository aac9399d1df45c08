"""Search led by what the groups' losses are learnt to add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.global_ranking import warm_starts
from autoprune.agents.tools.moves import swap
from autoprune.agents.tools.response import Belief, Response
from autoprune.agents.tools.scripted import CourseStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import descend
from autoprune.study.trial import Candidate

# Measured before anything is learnt, and the share of the trials that they may be.
STARTS, START_SHARE = 8, 0.3
# So many walks from the best widths, of a few swaps at most.
WALKS, LONGEST = 200, 3
# Widths drawn beside them, of which so many are new for every trial.
DRAWN, ANEW = 30, 3
# Standard deviations of what is not known that count in favour of a candidate.
HOPE = 0.5


class SurrogateStrategy(CourseStrategy):
    """Measures what is expected to lose least by everything measured so far.

    After the known warm starts and some drawn widths, hundreds of candidates are ranked for each
    that is measured: swaps around the best, and drawn ones. To draw, every group's losses to expect
    are taken as they might be, and the widths are those that would then lose least (Thompson 1933,
    "On the Likelihood That One Unknown Probability Exceeds Another"). Candidates of which little is
    known get the benefit of the doubt (the upper confidence bound of Srinivas et al. 2010,
    "Gaussian Process Optimization in the Bandit Setting").
    """

    name: ClassVar[str] = "surrogate"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._random = np.random.default_rng(problem.seed)
        self._response = Response(problem)
        self._drawn: list[Widths] = []

    def _course(self) -> Iterator[Iterable[Candidate]]:
        starts = warm_starts(self.problem)
        count = max(min(STARTS, round(START_SHARE * self.problem.trials)), len(starts))
        before = self._response.learnt({})
        yield map(Candidate, starts + [self._draw(before) for _ in range(count - len(starts))])
        while promising := self._promising():
            yield map(Candidate, promising)

    def _promising(self) -> list[Widths]:
        """Return as many of the best candidates as can be measured at once; none if all are known.

        Of swaps and drawn widths.
        """
        belief = self._response.learnt(self._values)
        self._drawn = [*self._drawn, *(self._draw(belief) for _ in range(ANEW))][-DRAWN:]
        good = list(filter(self.problem.projection.fits, self._values))
        best = max(good, key=lambda widths: self._values[widths], default=self._drawn[-1])
        pool = {self._walked(best) for _ in range(WALKS)} | set(self._drawn)
        new = sorted(widths for widths in pool if Candidate(widths) not in self._asked)
        return belief.rank(new, HOPE)[: self.problem.workers] if new else []

    def _draw(self, belief: Belief) -> Widths:
        projection = self.problem.projection
        curves = belief.draw(self._random)
        return projection.fill(descend(projection.space.sizes, curves, projection))

    def _walked(self, widths: Widths) -> Widths:
        """Return what a few swaps lead to."""
        projection = self.problem.projection
        for _ in range(self._random.integers(1, LONGEST, endpoint=True)):
            widths = swap(widths, projection, self._random) or widths
        return projection.fill(widths)
