"""How a round of a search is going, for whoever shows it."""

from __future__ import annotations

import logging
import time

from autoprune.agents.base import SearchProblem
from autoprune.core.progress import SearchState
from autoprune.engine.loop import LoopLimits
from autoprune.study.ledger import Ledger
from autoprune.study.trial import Trial

log = logging.getLogger(__name__)


class RoundProgress:
    """The best so far, failures and pace of a round that begins now."""

    def __init__(self, ledger: Ledger, problem: SearchProblem, limits: LoopLimits) -> None:
        self._ledger, self._problem, self._limits = ledger, problem, limits
        self._before, self._began = len(ledger.of_round), time.monotonic()

    def after(self, trial: Trial, busy: int | None) -> SearchState:
        """Return where the round stands after a trial; a failure is logged.

        Args:
            trial: the last one.
            busy: workers elsewhere that have something to do; None where there are none.
        """
        best = self._ledger.best(1, self._problem.projection.fits)
        done = len(self._ledger.of_round)
        per_minute = self._per_minute(done)
        return SearchState(
            done,
            self._limits.trials,
            best[0].value if best else None,
            _detail(trial, done),
            costs=_shares(best[0], self._problem) if best else {},
            failed=sum(one.value is None for one in self._ledger.of_round),
            per_minute=per_minute,
            seconds_left=self._seconds_left(done, per_minute),
            busy=busy,
            number=len(self._ledger.made),
            value=trial.value,
        )

    def _per_minute(self, done: int) -> float | None:
        seconds = time.monotonic() - self._began
        return 60 * (done - self._before) / seconds if seconds > 0 else None

    def _seconds_left(self, done: int, per_minute: float | None) -> float | None:
        """Return the seconds until the trials are made, or until the deadline if that is first."""
        if not per_minute or done >= self._limits.trials:
            return None
        by_trials = 60 * (self._limits.trials - done) / per_minute
        return max(0.0, min(by_trials, self._limits.deadline - time.monotonic()))


def _shares(trial: Trial, problem: SearchProblem) -> dict[str, float]:
    """Return what is left of the costs that the budget bounds, or of the MACs without a budget."""
    found = trial.measurement
    if found is None:
        return {}
    bounded = [one.cost.name for one in problem.projection.constraints] or ["flops"]
    return {
        name: found.costs[name] / found.dense_costs[name]
        for name in bounded
        if found.costs.get(name) is not None and found.dense_costs.get(name)
    }


def _detail(trial: Trial, number: int) -> str:
    """Return a trial's scores in words; a failure is logged."""
    if trial.measurement is None or trial.value is None:
        log.info("trial %d failed: %s", number, trial.error)
        return "failed"
    scores = trial.measurement.scores
    shown = {"kl": scores.kl, "top1": scores.top1, "score": scores.custom}
    return ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)
