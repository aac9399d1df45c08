"""The smallest network that loses no more than so many points: a budget, bisected."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoprune.agents.base import SearchProblem
from autoprune.core.records import Finite, Natural, Quantity, Record, plain
from autoprune.engine.rounds import RoundResult, Rounds
from autoprune.errors import RunError, UsageError, counted, spelt
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.search_spaces.projection import Constraint, Projection, cheapened

log = logging.getLogger(__name__)

# Searches, each at half the interval of the one before: the last is known to 1/64 of the range.
ROUNDS = 6
# All of them together get the trials of so many searches, if nobody says how many.
SEARCHES = 3


class _Loss(Record, frozen=True):
    """What a round lost, and under which terms, as the study remembers it."""

    trials: Natural
    share: Quantity
    lost: Finite


@dataclass(frozen=True)
class Round:
    """One search of the bisection.

    Attributes:
        share: of the dense cost, the bound.
        drop: of the winner on the selection images: points of top-1, or units of the user's score.
    """

    share: float
    drop: float


@dataclass(frozen=True, eq=False)
class Smallest:
    """What the bisection found.

    Attributes:
        points: that might be lost.
        cost: that was to be small.
        result: of the round that won.
        share: its bound, of the dense cost.
        rounds: all of them.
        trials: that all of them might take together, about.
    """

    points: float
    cost: str
    result: RoundResult
    share: float
    rounds: tuple[Round, ...]
    trials: int

    @property
    def budget(self) -> str:
        """The budget that would have asked for this network."""
        return f"{self.cost}={self.share:.6g}"

    def report(self) -> Mapping[str, Any]:
        """Return what `result.json` says of it."""
        return {
            "points": self.points,
            "minimize": self.cost,
            "lost": drop_of(self.result.finalist.measurement),
            "share": self.share,
            "rounds": [{"share": one.share, "lost": one.drop} for one in self.rounds],
        }


def find_smallest(rounds: Rounds, problem: SearchProblem, points: float, cost: str) -> Smallest:
    """Search under bounds on one cost, each as low as the losses so far allow.

    Args:
        rounds: runs the searches.
        problem: without bounds.
        points: that the winner may lose on the selection images (`drop_of`).
        cost: that is to be small.

    Raises:
        RunError: no round's winner keeps within the points.
    """
    search = _Bisection(rounds, problem, cost)
    low, high, best = search.lowest, 1.0, 0
    tried: list[Round] = []
    for number in range(1, ROUNDS + 1):
        if best and time.monotonic() >= rounds.context.clock.deadline:
            log.info("the time is over: %d of %d budgets tried", number - 1, ROUNDS)
            break
        share = (low + high) / 2
        drop = search.drop(number, share)
        tried.append(Round(share, drop))
        log.info("%s=%.3f: the winner loses %.2f", cost, share, drop)
        low, high, best = (low, share, number) if drop <= points else (share, high, best)
    if not best:
        raise RunError(
            f"no smaller network within {counted(points, 'point')} was found: at "
            f"{tried[-1].share:.3f} of the dense {cost} the best still loses {tried[-1].drop:.2f}; "
            f"allow more points, or go on with more {spelt('trials')}."
        )
    share = tried[best - 1].share
    result = search.result(best, share)
    return Smallest(points, cost, result, share, tuple(tried), search.trials)


def drop_of(measurement: Measurement) -> float:
    """Return what a network lost: points of top-1, or units of the user's own score."""
    dense, pruned = measurement.dense, measurement.scores
    assert dense.metric is not None and pruned.metric is not None
    return (dense.metric - pruned.metric) * (100 if pruned.custom is None else 1)


def check_metric(dense: Scores) -> None:
    """Refuse to bound the loss of a score that is not there.

    Raises:
        UsageError: the data has no labels, and there is no `evaluate`.
    """
    if dense.metric is None:
        raise UsageError(
            f"{spelt('max_drop')} needs labels, or {spelt('evaluate')}: the data has none."
        )


class _Bisection:
    """Searches under any share of one cost; what a round lost is remembered in the study."""

    def __init__(self, rounds: Rounds, problem: SearchProblem, cost: str) -> None:
        self._rounds, self._cost = rounds, problem.costs[cost]
        self._dense = self._cost.total(problem.space.sizes)
        trials = rounds.context.config.trials or SEARCHES * problem.trials
        self.trials = trials
        self._problem = replace(problem, trials=max(trials // ROUNDS, 1))
        self._results: dict[int, RoundResult] = {}
        least = problem.space.lowest
        if not self._cost.is_monotone:
            least = cheapened(problem.space, self._cost.total)
        self.lowest = min(self._cost.total(least) / self._dense, 1.0)

    def drop(self, number: int, share: float) -> float:
        """Return what the winner of a round loses."""
        key, trials = f"round {number}", self._problem.trials
        before = self._rounds.ledger.remarked(key, _Loss)
        if before is not None and (before.trials, before.share) == (trials, share):
            return before.lost
        result = self.result(number, share)
        lost = drop_of(result.finalist.measurement)
        if not result.loop.timed_out:  # with more time it may lose less
            self._rounds.ledger.remark(key, plain(_Loss(trials, share, lost)))
        return lost

    def result(self, number: int, share: float) -> RoundResult:
        """Return what a round ended with; it is run now if it was not."""
        if number not in self._results:
            bound = Constraint(self._cost, share * self._dense)
            problem = replace(self._problem, projection=Projection(self._problem.space, [bound]))
            left = ROUNDS + 1 - number
            self._results[number] = self._rounds.run(problem, str(number), left)
        return self._results[number]
