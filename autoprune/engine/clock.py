"""The time of one session of a search: what its stages take, and when it must end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.core.stages import StageTimes
from autoprune.study.ledger import Ledger

# Part of the user's time that recovery may take at most.
RECOVERY_SHARE = 0.25
# What recovery takes by default: a part of the time before it, and so many seconds at most.
RECOVERY_PART = 0.5
RECOVERY_SECONDS = 120.0
# Part of the time before recovery that the search itself may take; the finalists get the rest.
SEARCH_SHARE = 0.75
STAGES = ("structure", "statistics", "paths", "judge", "strategy", "finalists", "recovery")


class Clock(StageTimes):
    """A search from its beginning, or resumption, to its end.

    Attributes:
        evaluations, image_forwards: done besides the trials: to choose the search evaluator and
            the winner, and to score the winner after recovery.
        search_deadline: when the search must stop, in `time.monotonic` seconds.
        deadline: after which no finalist is begun.
        end: when all must stop, recovery too.
    """

    def __init__(
        self, began: float, limit: float | None = None, recovery: float | str | None = 0.0
    ) -> None:
        """Set the deadlines.

        Args:
            began: when the search began, in `time.monotonic` seconds.
            limit: seconds that it may last; None is no limit.
            recovery: seconds of recovery; at most `RECOVERY_SHARE` of the limit are given. None is
                `RECOVERY_PART` of the time before it, at most `RECOVERY_SECONDS`; a text is a
                number of steps or epochs, for which that share is kept.
        """
        super().__init__(*STAGES)
        self._began = began
        self.end = began + (limit or math.inf)
        self._by_default = recovery is None
        wanted = RECOVERY_SECONDS if recovery is None else recovery
        most = RECOVERY_SHARE * (limit or math.inf)
        self._recovery = most if isinstance(wanted, str) else min(wanted, most)
        self.evaluations = self.image_forwards = 0
        self.deadline = math.inf if limit is None else self.end - self._recovery
        self.search_deadline = began + SEARCH_SHARE * (self.deadline - began)

    def share(self, rounds_left: int | None) -> tuple[float, float]:
        """Return when a round must stop searching, and when it may begin no more finalists.

        Args:
            rounds_left: how many rounds share the time that is left; None for a single round.
        """
        if rounds_left is None:
            return self.search_deadline, self.deadline
        now = time.monotonic()
        length = (self.deadline - now) / rounds_left
        return now + SEARCH_SHARE * length, now + length

    @property
    def recovery_seconds(self) -> float:
        """Seconds that recovery may take from now on; infinite for steps without a limit."""
        most = self._recovery
        if self._by_default:
            most = min(most, RECOVERY_PART * self.total)
        return min(most, self.end - time.monotonic())

    @property
    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def count(self, *forwards: int) -> None:
        """Count evaluations besides the trials, by the samples that each ran through networks."""
        self.evaluations += len(forwards)
        self.image_forwards += sum(forwards)

    @property
    def took(self) -> dict[str, float]:
        """What the session took so far: seconds by stage and in total, and counts."""
        return {
            **self.seconds,
            "total": self.total,
            "evaluations": self.evaluations,
            "image_forwards": self.image_forwards,
        }

    @contextmanager
    def recorded(self, ledger: Ledger) -> Iterator[None]:
        """Write down what the session took: at once, in case it is killed, and when it ends."""
        ledger.keep_session(self.took)
        try:
            yield
        finally:
            ledger.keep_session(self.took)
