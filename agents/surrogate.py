"""Search by a learnt model of how the groups' losses add up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count, Share
from autoprune.agents.tools.loss_model import FittedLossModel, LossModel, LossModelConfig
from autoprune.agents.tools.moves import swap
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import expected_losses, least_sum
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class SurrogateConfig(LossModelConfig):
    """Options of the surrogate search, and of the model that it learns.

    Attributes:
        starts: candidates that are measured before anything is learnt, at most.
        start_share: share of the trials that these may be.
        walks: random walks of swaps from the best widths, for every trial.
        longest_walk: swaps of one walk, at most.
        drawn: widths drawn from the model that are ranked beside them.
        redrawn: of these, drawn again for every trial.
        optimism: standard deviations of the model by which a candidate may be better.
    """

    starts: Count = 8
    start_share: Share = 0.3
    walks: Count = 200
    longest_walk: Count = 3
    drawn: Count = 30
    redrawn: Count = 3
    optimism: float = 0.5


class SurrogateStrategy(ScriptedStrategy):
    """Measures the candidate of least expected loss by everything measured so far.

    After the known warm starts and some drawn widths, hundreds of candidates are ranked for each
    that is measured: swaps around the best, and drawn ones. To draw, every group's losses are drawn
    from the model, and the widths are those that would then lose least (Thompson 1933,
    "On the Likelihood That One Unknown Probability Exceeds Another"). Candidates of which little is
    known get the benefit of the doubt (the upper confidence bound of Srinivas et al. 2010,
    "Gaussian Process Optimization in the Bandit Setting").
    """

    name = "surrogate"
    config = SurrogateConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with nothing learnt."""
        super().start(problem)
        self._random = np.random.default_rng(problem.seed)
        self._model = LossModel(expected_losses(problem.rankings), self.config)
        self._drawn: list[Widths] = []

    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield starts, then the most promising candidates by what was learnt."""
        starts, own = warm_starts(self.problem), self.config
        share = round(own.start_share * self.problem.trials)
        count = max(min(own.starts, share), len(starts))
        prior = self._model.fit({})
        yield map(Candidate, starts + [self._draw(prior) for _ in range(count - len(starts))])
        while promising := self._promising():
            yield map(Candidate, promising)

    def _promising(self) -> list[Widths]:
        """Return as many of the best candidates as can be measured at once; none if all are known.

        They are chosen from swaps and drawn widths.
        """
        own, fitted = self.config, self._model.fit(self._values)
        drawn = [*self._drawn, *(self._draw(fitted) for _ in range(own.redrawn))]
        self._drawn = drawn[-own.drawn :]
        good = list(filter(self.problem.projection.fits, self._values))
        best = max(good, key=lambda widths: self._values[widths], default=self._drawn[-1])
        pool = {self._walked(best) for _ in range(own.walks)} | set(self._drawn)
        new = sorted(widths for widths in pool if Candidate(widths) not in self._asked)
        return fitted.rank(new, own.optimism)[: self.problem.at_once] if new else []

    def _draw(self, fitted: FittedLossModel) -> Widths:
        return least_sum(self.problem.projection, fitted.draw(self._random))

    def _walked(self, widths: Widths) -> Widths:
        """Return the widths after a random walk of a few swaps."""
        projection = self.problem.projection
        for _ in range(self._random.integers(1, self.config.longest_walk, endpoint=True)):
            widths = swap(widths, projection, self._random) or widths
        return projection.fill(widths)
