"""Random keep ratios, projected onto the budget (without one, taken as they are)."""

from __future__ import annotations

import numpy as np

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.study.trial import Candidate, Trial


class RandomStrategy(Strategy):
    """Independent keep ratios, uniform between a group's lowest and 1."""

    name = "random"
    needs_budget = False

    def start(self, problem: SearchProblem) -> None:
        """Seed the draws."""
        self._random = np.random.default_rng(problem.seed)

    def ask(self) -> Candidate:
        """Return a new random candidate."""
        space = self.problem.space
        ratios = self._random.uniform(space.ratios(space.lowest), 1.0)
        return Candidate(self.problem.projection.project(ratios), awaited=False)

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""
