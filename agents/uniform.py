"""The same keep ratio everywhere: what every search has to beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial


class UniformStrategy(Strategy):
    """One candidate: equal keep ratios, scaled onto the budget."""

    name: ClassVar[str] = "uniform"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._asked = False

    def ask(self) -> Candidate | None:
        """Return the uniform candidate once."""
        if self._asked:
            return None
        self._asked = True
        return Candidate(self.problem.projection.project(np.ones(len(self.problem.space))))

    def tell(self, trial: Trial) -> None:
        """Nothing is learnt."""
