"""Rules by hand: the same keep ratio everywhere, or one that changes evenly with depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.agents.config import Positive
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class RampConfig:
    """Keep ratios before they are scaled onto the budget; they run linearly over the groups.

    Attributes:
        first: keep ratio of the first group.
        last: keep ratio of the last group.
    """

    first: Positive = 1.0
    last: Positive = 1.0


class UniformStrategy(ScriptedStrategy):
    """One candidate: equal keep ratios, scaled onto the budget; what every search has to beat."""

    name = "uniform"
    config = RampConfig()

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the one candidate."""
        ratios = np.linspace(self.config.first, self.config.last, len(self.problem.space))
        yield [Candidate(self.problem.projection.project(ratios))]


class DeepStrategy(UniformStrategy):
    """The deeper a group, the more is cut: "deep" of He et al. 2018 (AMC), table 2.

    A linear ramp of the keep ratio over the groups in network order: the paper gives the idea, not
    its figures.
    """

    name = "deep"
    config = RampConfig(last=0.5)


class ShallowStrategy(UniformStrategy):
    """The earlier a group, the more is cut: "shallow" of He et al. 2018 (AMC), table 2."""

    name = "shallow"
    config = RampConfig(first=0.5)
