"""The search loop: ask, evaluate, reward, record, tell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoprune.errors import AutopruneError, EvaluateError, RewardError, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.strategy import Candidate, Strategy, Trial
from autoprune.study.ledger import MOST_FAILURES, Ledger

# Questions in a row that were answered before.
MOST_REPEATS = 1000


@dataclass(frozen=True)
class LoopReport:
    """How a search went.

    Attributes:
        strategy_seconds: spent in `ask` and `tell`.
        timed_out: whether it was the time that ended it.
    """

    strategy_seconds: float
    timed_out: bool = False


class SearchFailed(AutopruneError):
    """Trial after trial failed."""


def run_loop(
    strategy: Strategy,
    measure: Callable[[Candidate], Measurement],
    reward: Reward,
    ledger: Ledger,
    trials: int,
    deadline: float = math.inf,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> LoopReport:
    """Search until there are so many trials, the time is over, or the strategy is done.

    One trial is made in any case: there is always a best so far. What an interrupted search had
    asked is replayed to its end, however late it is: a strategy would forget it otherwise.

    Args:
        strategy: who asks.
        measure: evaluates a candidate.
        reward: values measurements; raises nothing but `RewardError`.
        ledger: holds the trials; those of an interrupted search are replayed, not evaluated.
        trials: of the ledger's round at the end, replayed ones included.
        deadline: in `time.monotonic` seconds.
        on_trial: told every new trial.

    Raises:
        SearchFailed: `MOST_FAILURES` trials failed in a row.
    """
    thinking, repeats = 0.0, 0
    replayed = {trial.candidate.widths for trial in ledger.of_round}
    made = len(replayed)
    while made < trials or replayed:
        late = made > 0 and time.monotonic() >= deadline
        if late and not replayed:
            break
        start = time.perf_counter()
        candidate = strategy.ask()
        thinking += time.perf_counter() - start
        if candidate is None or repeats > MOST_REPEATS:
            break
        known = ledger.find(candidate.widths)
        if known is None:
            if made >= trials or late:
                break
            trial = _over_budget(strategy, candidate) or _evaluate(candidate, measure, reward)
            ledger.record(trial)
            made += 1
            on_trial(trial)
            repeats = 0
        else:
            repeats += candidate.widths not in replayed
            replayed.discard(candidate.widths)
            trial = _again(strategy, candidate, known, ledger)
        _check_failures(ledger, trial)
        start = time.perf_counter()
        strategy.tell(trial)
        thinking += time.perf_counter() - start
    timed_out = made < trials and time.monotonic() >= deadline
    return LoopReport(thinking, timed_out)


def _again(strategy: Strategy, candidate: Candidate, known: Trial, ledger: Ledger) -> Trial:
    """Return what is known of a candidate; proposed in earnest, a probe's widths can win."""
    trial = replace(known, candidate=candidate)
    if candidate.kind == "candidate" and known.candidate.kind == "probe":
        trial = _over_budget(strategy, candidate) or trial
        if trial.value is not None:
            ledger.record(trial)
    return trial


def _check_failures(ledger: Ledger, last: Trial) -> None:
    if ledger.failures >= MOST_FAILURES:
        raise SearchFailed(
            f"{ledger.failures} trials in a row failed, the last one because "
            f"{str(last.error).rstrip('.')}; every earlier trial is kept: resume the run "
            "when the cause is mended."
        )


def _over_budget(strategy: Strategy, candidate: Candidate) -> Trial | None:
    """Return the failed trial of a candidate that is over the budget, None if it is not."""
    if candidate.kind == "probe" or strategy.problem.projection.fits(candidate.widths):
        return None
    return Trial(candidate, None, error=f"{strategy.name} proposed widths over the budget.")


def _evaluate(
    candidate: Candidate, measure: Callable[[Candidate], Measurement], reward: Reward
) -> Trial:
    try:
        measurement = measure(candidate)
    except EvaluateError as error:
        return Trial(candidate, None, error=str(error))
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        reason = f"the evaluation failed: {type(error).__name__}: {first_line(error)}"
        return Trial(candidate, None, error=reason)
    try:
        return Trial(candidate, reward(measurement), measurement)
    except RewardError as error:
        return Trial(candidate, None, measurement, str(error))
