"""The smallest network that loses no more than so many points: a budget, bisected."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoprune.agents.base import SearchProblem
from autoprune.core.untrusted import count, fields, finite, quantity
from autoprune.engine.rounds import Arena, Contest
from autoprune.errors import RunError, UsageError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.search_spaces.projection import Constraint, Projection, cheapened

# Searches, each at half the interval of the one before: the last is known to 1/64 of the range.
ROUNDS = 6
# All of them together get the trials of so many searches, if nobody says how many.
SEARCHES = 3


def _loss(data: Any) -> dict[str, Any]:
    """Read what a round lost, and under which terms.

    Raises:
        ValueError: it is none.
    """
    return fields(data, {"trials": count, "share": quantity, "lost": finite})


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
        contest: the round that won.
        share: its bound, of the dense cost.
        rounds: all of them.
        trials: that all of them might take together, about.
    """

    points: float
    cost: str
    contest: Contest
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
            "lost": drop_of(self.contest.finalist.measurement),
            "share": self.share,
            "rounds": [{"share": one.share, "lost": one.drop} for one in self.rounds],
        }


def find_smallest(arena: Arena, problem: SearchProblem, points: float, cost: str) -> Smallest:
    """Search under bounds on one cost, each as low as the losses so far allow.

    Args:
        arena: where the searches are held.
        problem: without bounds.
        points: that the winner may lose on the selection images (`drop_of`).
        cost: that is to be small.

    Raises:
        RunError: no round's winner keeps within the points.
    """
    search = _Bisection(arena, problem, cost)
    low, high, best = search.lowest, 1.0, 0
    rounds: list[Round] = []
    for number in range(1, ROUNDS + 1):
        if best and time.monotonic() >= arena.session.deadline:
            arena.progress.note(f"the time is over: {number - 1} of {ROUNDS} budgets tried")
            break
        share = (low + high) / 2
        drop = search.drop(number, share)
        rounds.append(Round(share, drop))
        arena.progress.note(f"{cost}={share:.3f}: the winner loses {drop:.2f}")
        low, high, best = (low, share, number) if drop <= points else (share, high, best)
    if not best:
        raise RunError(
            f"no smaller network within {points:g} points was found: at {rounds[-1].share:.3f} of "
            f"the dense {cost} the best still loses {rounds[-1].drop:.2f}; allow more points, or "
            "go on with more --trials."
        )
    share = rounds[best - 1].share
    contest = search.contest(best, share)
    return Smallest(points, cost, contest, share, tuple(rounds), search.trials)


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
        raise UsageError("max-drop needs labels, or evaluate=: the data has none.")


class _Bisection:
    """Searches under any share of one cost; what a round lost is remembered in the study."""

    def __init__(self, arena: Arena, problem: SearchProblem, cost: str) -> None:
        self._arena, self._cost = arena, problem.costs[cost]
        self._dense = self._cost.total(problem.space.sizes)
        trials = arena.config.trials or SEARCHES * problem.trials
        self.trials = trials
        self._problem = replace(problem, trials=max(trials // ROUNDS, 1))
        self._held: dict[int, Contest] = {}
        least = problem.space.lowest
        if not self._cost.is_monotone:
            least = cheapened(problem.space, self._cost.total)
        self.lowest = min(self._cost.total(least) / self._dense, 1.0)

    def drop(self, number: int, share: float) -> float:
        """Return what the winner of a round loses."""
        key, terms = f"round {number}", {"trials": self._problem.trials, "share": share}
        before = self._arena.ledger.remarked(key, _loss) or {}
        if before.items() >= terms.items():
            return float(before["lost"])
        contest = self.contest(number, share)
        lost = drop_of(contest.finalist.measurement)
        if not contest.exploration.timed_out:  # with more time it may lose less
            self._arena.ledger.remark(key, {**terms, "lost": lost})
        return lost

    def contest(self, number: int, share: float) -> Contest:
        """Return a round, held now if it was not."""
        if number not in self._held:
            bound = Constraint(self._cost, share * self._dense)
            problem = replace(self._problem, projection=Projection(self._problem.space, [bound]))
            left = ROUNDS + 1 - number
            self._held[number] = self._arena.hold(problem, str(number), left)
        return self._held[number]
