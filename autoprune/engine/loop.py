"""The search loop: ask, evaluate, record, tell."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from autoprune.agents.base import Strategy
from autoprune.core.policy import Widths
from autoprune.engine.executors import MOST_DEATHS, Pending
from autoprune.errors import (
    AutopruneError,
    EvaluateError,
    ModelError,
    RewardError,
    WorkerError,
    describe,
)
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.study.ledger import MOST_FAILURES, Ledger, Unanswered
from autoprune.study.trial import Candidate, Trial

# Repetitions in a row of what was asked before that end a search.
MOST_REPEATS = 1000

Evaluate: TypeAlias = Callable[[Candidate, Widths | None, bool], Pending[Measurement]]
"""(candidate, the incumbent's widths, whether it is evaluated alone) → its measurement, once there.

The incumbent is the best candidate that the strategy was told of, or that earlier rounds found.
"""


@dataclass(frozen=True, eq=False)
class Record:
    """Where trials are valued and written down.

    Attributes:
        ledger: of the search; the trials of an interrupted one are replayed, not evaluated.
        reward: values measurements; raises nothing but `RewardError`.
        on_trial: told every new trial.
    """

    ledger: Ledger
    reward: Reward
    on_trial: Callable[[Trial], None] = lambda trial: None

    def keep(self, trial: Trial) -> None:
        """Write a new trial down, and tell of it."""
        self.ledger.record(trial)
        self.on_trial(trial)


@dataclass(frozen=True)
class LoopLimits:
    """When the loop ends, and how much it does at once.

    Attributes:
        trials: of the ledger's round at the end, replayed ones included.
        deadline: in `time.monotonic` seconds.
        at_once: candidates that are on their way at once, where the strategy need not await them.
            Each is told in its turn, however long others take: what is asked does not depend on
            how long anything took. A candidate that is awaited has the whole processor.
    """

    trials: int
    deadline: float = math.inf
    at_once: int = 1


@dataclass(frozen=True)
class LoopReport:
    """How a search went.

    Attributes:
        strategy_seconds: spent in `ask` and `tell`.
        timed_out: whether the deadline ended it.
    """

    strategy_seconds: float
    timed_out: bool = False


class SearchFailed(AutopruneError):
    """Trial after trial failed."""


def run_loop(
    strategy: Strategy, evaluate: Evaluate, record: Record, limits: LoopLimits
) -> LoopReport:
    """Search until there are enough trials, the time is over, or the strategy is done.

    One trial is made in any case, so that there is always a best so far. What an interrupted search
    had asked is replayed to its end, however late it is: a strategy would forget it otherwise. What
    another process is evaluating is not waited for when the time is over.

    Raises:
        SearchFailed: `MOST_FAILURES` trials failed in a row.
    """
    asking = _Asking(strategy, record.ledger, limits)
    # (candidate, new?, waits for the trial)
    asked: deque[tuple[Candidate, bool, Callable[[], Trial | None]]] = deque()

    def begin(candidate: Candidate) -> Callable[[], Trial]:
        refused = _over_budget(strategy, candidate) or _deadly(record.ledger, candidate)
        if refused is not None:
            return lambda: refused
        alone = candidate.awaited and not asked
        measured = evaluate(candidate, asking.incumbent, alone)
        return partial(_valued, candidate, measured, record.reward)

    known = partial(_known, strategy, record.ledger, limits.deadline)

    def tell_next() -> None:
        candidate, is_new, answer = asked.popleft()
        trial = answer()
        while trial is None:  # another process began it, and died
            is_new = record.ledger.claim(candidate)
            if is_new:
                asking.began(candidate)
            trial = begin(candidate)() if is_new else known(candidate)
        if is_new:
            record.keep(trial)
        _check_failures(record.ledger, trial)
        asking.tell(trial)

    is_over = False
    while not is_over:
        try:
            for candidate, is_new in asking.questions():
                later = begin(candidate) if is_new else partial(known, candidate)
                asked.append((candidate, is_new, later))
                while asked and (candidate.awaited or len(asked) >= limits.at_once):
                    tell_next()
            while asked:
                tell_next()
        except Unanswered:  # what was begun here is kept; it is told if the search is resumed
            for trial in filter(None, (answer() for _, is_new, answer in asked if is_new)):
                record.keep(trial)
        # What other processes are evaluating is left to this one if they die.
        goes_on = record.ledger.waits() or asking.is_short
        is_over = time.monotonic() >= limits.deadline or not goes_on
    timed_out = asking.made < limits.trials and time.monotonic() >= limits.deadline
    return LoopReport(asking.seconds, timed_out)


class _Asking:
    """Asks a strategy until the search is over.

    Attributes:
        made: trials of the round that are done or on their way.
        seconds: spent by the strategy.
        incumbent: the best widths that the strategy was told of, or that earlier rounds found; not
            what the record of an interrupted search holds besides: that was not known then.
    """

    def __init__(self, strategy: Strategy, ledger: Ledger, limits: LoopLimits) -> None:
        self._strategy, self._ledger, self._limits = strategy, ledger, limits
        self._replayed = {trial.candidate.widths for trial in ledger.own_of_round}
        self._begun: set[Widths] = set()
        self._repeats, self._was_full = 0, False
        self.made = len(self._replayed)
        self.seconds = 0.0
        self._fits = strategy.problem.projection.fits
        earlier = ledger.best(1, lambda w: self._fits(w) and w not in self._replayed)
        self._best = -math.inf
        self.incumbent: Widths | None = None
        for trial in earlier:
            self._improve(trial)

    def questions(self) -> Iterator[tuple[Candidate, bool]]:
        """Yield candidates, and whether they are new."""
        trials, self._was_full = self._limits.trials, False
        while self._all_made < trials or self._replayed:
            late = self.made > 0 and time.monotonic() >= self._limits.deadline
            if late and not self._replayed:
                return
            candidate = self._ask()
            if candidate is None or self._repeats > MOST_REPEATS:
                return
            widths = candidate.widths
            is_new = widths not in self._begun and self._ledger.find(widths) is None
            if is_new and late:
                return
            if is_new and self._all_made >= trials:
                break
            is_new = is_new and self._ledger.claim(candidate)
            if is_new:
                self.began(candidate)
                self._repeats = 0
            else:
                self._repeats += widths not in self._replayed
                self._replayed.discard(widths)
            yield candidate, is_new
        self._was_full = True

    @property
    def is_short(self) -> bool:
        """Whether all trials were on their way, but another process has died with one since."""
        return self._was_full and self._all_made < self._limits.trials

    def began(self, candidate: Candidate) -> None:
        """Count a candidate that is evaluated here from now on."""
        self._begun.add(candidate.widths)
        self.made += 1

    @property
    def _all_made(self) -> int:
        """Trials of the round that are done or on their way, here or in other processes."""
        return self.made + self._ledger.of_others

    def _ask(self) -> Candidate | None:
        start = time.perf_counter()
        candidate = self._strategy.ask()
        self.seconds += time.perf_counter() - start
        return candidate

    def tell(self, trial: Trial) -> None:
        """Tell the strategy."""
        start = time.perf_counter()
        self._strategy.tell(trial)
        self.seconds += time.perf_counter() - start
        if trial.candidate.kind == "candidate" and self._fits(trial.candidate.widths):
            self._improve(trial)

    def _improve(self, trial: Trial) -> None:
        if trial.value is not None and trial.value > self._best:
            self._best, self.incumbent = trial.value, trial.candidate.widths


def _valued(candidate: Candidate, measured: Pending[Measurement], reward: Reward) -> Trial:
    """Value a candidate by its measurement; a failure of either is the trial's."""
    try:
        measurement = measured()
    except (EvaluateError, ModelError, WorkerError) as error:
        return Trial(candidate, None, error=str(error))
    except TimeoutError as error:
        return Trial(candidate, None, error=f"the evaluation {error}")
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        return Trial(candidate, None, error=f"the evaluation failed: {describe(error)}")
    try:
        return Trial(candidate, reward(measurement), measurement)
    except RewardError as error:
        return Trial(candidate, None, measurement, str(error))


def _known(
    strategy: Strategy, ledger: Ledger, deadline: float, candidate: Candidate
) -> Trial | None:
    """Return what is known of a candidate; proposed in earnest, a probe's widths can win.

    None if it was begun by another process, which died.

    Raises:
        Unanswered: another process is evaluating it, and the time is over.
    """
    known = ledger.answer(candidate.widths, deadline)
    if known is None:
        return None
    trial = replace(known, candidate=candidate)
    if candidate.kind == "candidate" and known.candidate.kind == "probe":
        trial = _over_budget(strategy, candidate) or trial
        if trial.value is not None:
            ledger.record(trial)
    return trial


def _over_budget(strategy: Strategy, candidate: Candidate) -> Trial | None:
    """Return the failed trial of a candidate that is over the budget, None if it is not."""
    if candidate.kind == "probe" or strategy.problem.projection.fits(candidate.widths):
        return None
    return Trial(candidate, None, error=f"{strategy.name} proposed widths over the budget.")


def _deadly(ledger: Ledger, candidate: Candidate) -> Trial | None:
    """Return the failed trial of a candidate that no process survives, None if one may."""
    deaths = ledger.deaths(candidate.widths)
    if deaths < MOST_DEATHS:
        return None
    error = f"{deaths} processes ended, or gave no sign of life, while they evaluated it."
    return Trial(candidate, None, error=error)


def _check_failures(ledger: Ledger, last: Trial) -> None:
    if ledger.failures >= MOST_FAILURES:
        raise SearchFailed(
            f"{ledger.failures} trials in a row failed, the last one because "
            f"{str(last.error).rstrip('.')}; every earlier trial is kept: resume the run "
            "when the cause is mended."
        )
