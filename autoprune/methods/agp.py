"""Automated gradual pruning: filters go on a cubic schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from autoprune.agents.config import Count, Share
from autoprune.methods.masked import MaskedMethod


@dataclass(frozen=True)
class GradualPruningConfig:
    """The schedule.

    Attributes:
        initial: share, of the filters that go, that is removed at the beginning.
        end: fraction of the run at which all of them are gone.
        removals: how often filters are removed until then.
    """

    initial: Share = 0.2
    end: Share = 1 / 6
    removals: Count = 15


class GradualPruning(MaskedMethod):
    """To prune, or not to prune (AGP, Zhu and Gupta 2017), on whole filters.

    Equation 1: s_t = s_f + (s_i − s_f) (1 − t)³ is the sparsity at the time t from 0 to 1 of the
    schedule; s_f is what the budget removes of each group. Filters of least L1 norm go and stay
    zero; the others train on.

    The defaults are those of Intel's Distiller for filters of ResNet-20: sparsity .1 to .5, every
    second of the first 30 of 180 epochs. Costs nothing beside training.
    """

    name: ClassVar[str] = "agp"
    config = GradualPruningConfig()

    def level(self, completed: float) -> int:
        """Return the removals that are due, one at the beginning."""
        removals = self.config.removals
        share = completed / self.config.end if self.config.end else 1.0
        return 1 + math.floor(min(share, 1.0) * removals)

    def removed(self, level: int) -> float:
        """Return s_t as a share of s_f."""
        left = 1 - (level - 1) / self.config.removals
        return float(1 + (self.config.initial - 1) * left**3)
