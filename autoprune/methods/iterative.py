"""Iterative pruning: remove some filters, train the rest, and again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from autoprune.agents.config import Count
from autoprune.methods.masked import MaskedMethod


@dataclass(frozen=True)
class IterativePruningConfig:
    """How often filters go.

    Attributes:
        rounds: of removing filters and training the others, all equally long.
    """

    rounds: Count = 4


class IterativePruning(MaskedMethod):
    """Learning both weights and connections (Han et al. 2015, section 3.2), on whole filters.

    Every round removes the same number of filters, those of least L1 norm, which stay zero, and
    trains the others. The paper removes weights below a quality factor times the standard
    deviation of their layer, where here the budget says how many go; it trains at a tenth to a
    hundredth of the original learning rate (second-hand). The number of rounds is ours. Costs
    nothing beside training.
    """

    name: ClassVar[str] = "iterative"
    config = IterativePruningConfig()

    def level(self, completed: float) -> int:
        """Return the number of the round, from 1."""
        return min(math.floor(completed * self.config.rounds), self.config.rounds - 1) + 1

    def removed(self, level: int) -> float:
        """Return the share of rounds."""
        return level / float(self.config.rounds)
