"""Strategies that swap units between groups by calibrated loss curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count
from autoprune.agents.tools.calibration import Calibration, CalibrationConfig
from autoprune.agents.tools.moves import error, swap
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class SwappingConfig(CalibrationConfig):
    """Options of swapping.

    Attributes:
        swaps: that are ranked by calibrated curves, for one that is measured.
    """

    swaps: Count = 64


class SwappingStrategy(ScriptedStrategy):
    """One group at a time grows and another pays.

    Of many such swaps around the best candidate so far, the one is measured that promises most by
    the groups' loss curves. What a curve's unit is worth in reward is learnt from every measurement
    (`Calibration`), so that one swap tells something about many others.
    """

    config = SwappingConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with curves that are not calibrated."""
        super().start(problem)
        self._random = np.random.default_rng(problem.seed)
        self._calibration = Calibration(problem, self.config)
        # Drawn scales give groups their turn while no curve tells them apart.
        blind = any(ranking.errors is None for ranking in problem.rankings)
        self._draws = self._random if blind else None

    def _refine(self, start: Widths) -> Iterator[Iterable[Candidate]]:
        """Yield the most promising swaps around the best candidate, then around the next best.

        There are as many as can be measured at once.
        """
        fits, used_up = self.problem.projection.fits, 0
        while True:
            good = sorted(filter(fits, self._values), key=lambda w: -self._values[w]) or [start]
            if used_up == len(good):
                return
            centre = good[used_up]
            promising = self._swap(centre)
            used_up = 0 if promising else used_up + 1
            # Without a base, so that its evaluation can stop early: that saves more time than what
            # swaps have in common.
            yield map(Candidate, promising)

    def _swap(self, centre: Widths) -> list[Widths]:
        """Return the most promising swaps; none if all that were drawn are known."""
        projection, curves = self.problem.projection, self._curves(centre)
        drawn = {swap(centre, projection, self._random) for _ in range(self.config.swaps)} - {None}
        swaps = sorted((error(curves, w), w) for w in drawn if w is not None)
        new: list[Widths] = []
        for _, widths in swaps:
            filled = projection.fill(widths)
            if Candidate(filled) not in self._asked and filled not in new:
                new.append(filled)
            if len(new) == self.problem.at_once:
                break
        return new

    def _curves(self, centre: Widths) -> Curves:
        """Return what the units of every group are worth in reward around a centre."""
        return self._calibration.curves(centre, self._values, self._draws)
