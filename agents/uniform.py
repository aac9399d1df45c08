"""Rules by hand: the same keep ratio everywhere, or one that changes evenly with depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from autoprune.agents.tools.scripted import CourseStrategy
from autoprune.study.trial import Candidate

# The keep ratio at the end that is cut most, beside the other end's, before scaling.
STEEPEST = 0.5


class UniformStrategy(CourseStrategy):
    """One candidate: equal keep ratios, scaled onto the budget; what every search has to beat."""

    name: ClassVar[str] = "uniform"
    first: ClassVar[float] = 1.0
    """Keep ratio of the first group before scaling; ratios run linearly to the last one's."""
    last: ClassVar[float] = 1.0

    def _course(self) -> Iterator[list[Candidate]]:
        ratios = np.linspace(self.first, self.last, len(self.problem.space))
        yield [Candidate(self.problem.projection.project(ratios))]


class DeepStrategy(UniformStrategy):
    """The deeper a group, the more is cut: "deep" of He et al. 2018 (AMC), table 2.

    A linear ramp of the keep ratio over the groups in network order: the paper gives the idea, not
    its figures.
    """

    name: ClassVar[str] = "deep"
    last: ClassVar[float] = STEEPEST


class ShallowStrategy(UniformStrategy):
    """The earlier a group, the more is cut: "shallow" of He et al. 2018 (AMC), table 2."""

    name: ClassVar[str] = "shallow"
    first: ClassVar[float] = STEEPEST
