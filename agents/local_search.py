"""Local search at the budget: units are swapped between groups by calibrated loss curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.global_ranking import warm_starts
from autoprune.agents.tools.calibration import Calibration
from autoprune.agents.tools.moves import error, swap
from autoprune.agents.tools.scripted import CourseStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves
from autoprune.study.trial import Candidate

if TYPE_CHECKING:
    from autoprune.agents.ddpg.agent import DdpgStrategy

# Swaps that are looked at, by calibrated curves, for one that is measured.
SWAPS = 64


class LocalSearchStrategy(CourseStrategy):
    """From the best start on, one group at a time grows and another pays.

    Starts are the known warm starts and, if there is an agent, what it would do at once.

    Of many such swaps around the best candidate so far, the one is measured that promises most by
    the groups' loss curves. What a curve's unit is worth in reward is learnt from every answer
    (`Calibration`), so that an answer about one swap tells something about many others.
    """

    name: ClassVar[str] = "local"
    options: ClassVar[tuple[str, ...]] = ("agent",)

    def __init__(self, problem: SearchProblem, agent: str | None = None) -> None:
        super().__init__(problem)
        self._advice = [] if agent is None else self._advised(agent)
        self._random = np.random.default_rng(problem.seed)
        self._calibration = Calibration(problem)
        # Drawn scales give groups their turn while no curve tells them apart.
        blind = any(ranking.errors is None for ranking in problem.rankings)
        self._draws = self._random if blind else None

    @classmethod
    def check_options(cls, agent: str | None = None, **options: Any) -> None:
        """Refuse an agent that is missing, damaged or does not fit.

        Raises:
            RunError: with the reason.
        """
        super().check_options(**options, **({} if agent is None else {"agent": agent}))
        if agent is not None:
            _ddpg().check_options(agent=agent)

    def _course(self) -> Iterator[Iterable[Candidate]]:
        starts = self._advice + warm_starts(self.problem)
        yield map(Candidate, starts)
        yield from self._refine(starts[0])

    def _advised(self, agent: str) -> list[Widths]:
        """Return what an agent that learnt before would do at once."""
        advisor = _ddpg()(self.problem, agent)
        self.agent_from = advisor.agent_from
        advice = advisor.ask()
        assert advice is not None  # a reused agent begins with what it would do itself
        return [advice.widths]

    def _refine(self, start: Widths) -> Iterator[Iterable[Candidate]]:
        """Measure the most promising swap around the best; the next best once there is none.

        Where several can be measured at once, those that promise most.
        """
        fits, used_up = self.problem.projection.fits, 0
        while True:
            good = sorted(filter(fits, self._values), key=lambda w: -self._values[w]) or [start]
            if used_up == len(good):
                return
            centre = good[used_up]
            promising = self._swap(centre)
            used_up = 0 if promising else used_up + 1
            # Without a base, so that it races: what swaps share is less than what races save.
            yield map(Candidate, promising)

    def _swap(self, centre: Widths) -> list[Widths]:
        """Return the swaps that promise most, or nothing if all that were drawn are known."""
        projection, curves = self.problem.projection, self._curves(centre)
        drawn = {swap(centre, projection, self._random) for _ in range(SWAPS)} - {None}
        swaps = sorted((error(curves, w), w) for w in drawn if w is not None)
        new: list[Widths] = []
        for _, widths in swaps:
            filled = projection.fill(widths)
            if Candidate(filled) not in self._asked and filled not in new:
                new.append(filled)
            if len(new) == self.problem.workers:
                break
        return new

    def _curves(self, centre: Widths) -> Curves:
        """Return what the units of every group are worth around a centre."""
        return self._calibration.curves(centre, self._values, self._draws)


def _ddpg() -> type[DdpgStrategy]:
    """Import the agent where it is wanted: it brings Stable-Baselines3 along."""
    from autoprune.agents.ddpg.agent import DdpgStrategy

    return DdpgStrategy
