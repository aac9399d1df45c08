"""The time of one session of a search: what its stages take, and when it must end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.study.ledger import Ledger

# Part of the user's time that recovery may take at most.
RECOVERY_SHARE = 0.25
# What it takes if nobody says: a part of the time before it, and so many seconds at most.
RECOVERY_PART = 0.5
RECOVERY_SECONDS = 120.0
# Part of the time before it that the search itself may take; the finalists get the rest.
SEARCH_SHARE = 0.75
STAGES = ("structure", "statistics", "paths", "judge", "strategy", "finalists", "recovery")


class Session:
    """A search from its beginning, or resumption, to its end.

    Attributes:
        seconds: spent so far, by stage; added to.
        evaluations, image_forwards: done besides the trials: to choose the judge and the winner,
            and to judge that after recovery.
        search_deadline: when the search must stop, in `time.monotonic` seconds.
        deadline: after which no finalist is begun.
    """

    def __init__(self, began: float, limit: float | None, recovery: float | None = 0.0) -> None:
        """Take when it began, how long it may last, and how long recovery may.

        Args:
            began: `time.monotonic` seconds.
            limit: seconds in all; None is no limit.
            recovery: seconds asked for; `RECOVERY_SHARE` of the limit at most are given. None is
                `RECOVERY_PART` of what everything before it took, `RECOVERY_SECONDS` at most.
        """
        self._began = began
        self._end = began + (limit or math.inf)
        self._modest = recovery is None
        wanted = RECOVERY_SECONDS if recovery is None else recovery
        self._recovery = min(wanted, RECOVERY_SHARE * (limit or math.inf))
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.evaluations = self.image_forwards = 0
        self.deadline = self._end - self._recovery
        self.search_deadline = began + SEARCH_SHARE * (self.deadline - began)

    def part(self, left: int | None) -> tuple[float, float]:
        """Return when a round must stop searching, and begin no finalist, if so many are left.

        What is left of the time is shared out equally. None is the only one.
        """
        if left is None:
            return self.search_deadline, self.deadline
        now = time.monotonic()
        length = (self.deadline - now) / left
        return now + SEARCH_SHARE * length, now + length

    @property
    def recovery_seconds(self) -> float:
        """Seconds that recovery may take from now on."""
        most = min(self._recovery, RECOVERY_PART * self.total) if self._modest else self._recovery
        return min(most, self._end - time.monotonic())

    @property
    def total(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def count(self, *forwards: int) -> None:
        """Count evaluations besides the trials, by the samples that each ran through networks."""
        self.evaluations += len(forwards)
        self.image_forwards += sum(forwards)

    @property
    def took(self) -> dict[str, float]:
        """What it took so far: seconds by stage and in total, evaluations, image forwards."""
        return {
            **self.seconds,
            "total": self.total,
            "evaluations": self.evaluations,
            "image_forwards": self.image_forwards,
        }

    @contextmanager
    def recorded(self, ledger: Ledger) -> Iterator[None]:
        """Write down what the session took, however it ends, and at once, should it be killed."""
        ledger.keep_session(self.took)
        try:
            yield
        finally:
            ledger.keep_session(self.took)
