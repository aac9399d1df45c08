"""Measures how long runs take: alternating repeats, their median and its spread.

The repeats of several runs alternate, so that other load on the machine affects all of them alike
and none finds the caches as it left them. On a busy machine the kernel may take the processor away
in the middle of a repeat. Such repeats are left out as long as there are enough others; otherwise
the time that the calling thread waited for a processor, as Linux counts it, is subtracted. Repeats
in which the clock jumps back are made again.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from autoprune.core.records import LEAST, MOST, AboveZero, Measured, Natural, Record
from autoprune.errors import MeasuringError

Run: TypeAlias = Callable[[], object]
"""Does the work once and returns when it is done."""

WARM_UP = 2
# The repeats of a slow run, the most of a fast one, and the time that those of a fast one take.
FEWEST, MANY, ENOUGH_MS = 7, 40, 20.0
# At most so many repeats are made for every one that should count.
PATIENCE = 3
# Nanoseconds on a processor, nanoseconds waiting for one, time slices (Linux schedstats).
WAITING = Path("/proc/thread-self/schedstat")


class Timing(Record, frozen=True):
    """A measured duration.

    Attributes:
        ms: The median.
        spread_ms: Half the distance between the quartiles.
        repeats: The number of repeats that counted.
    """

    ms: AboveZero
    spread_ms: Measured
    repeats: Natural

    @property
    def is_noisy(self) -> bool:
        """Whether the spread exceeds the median."""
        return self.spread_ms > self.ms

    @property
    def is_sound(self) -> bool:
        """Whether the duration is possible: above zero and finite."""
        return LEAST <= self.ms <= MOST and 0 <= self.spread_ms <= MOST

    def scaled(self, factor: float) -> Timing:
        """Return the timing on a machine that is slower by a factor."""
        return Timing(factor * self.ms, factor * self.spread_ms, self.repeats)

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Timing:
        """Return the timing of some repeats, leaving out those in which the clock jumped back.

        Raises:
            MeasuringError: No repeat has a duration.
        """
        good = [one for one in durations_ms if one > 0]
        if not good:
            raise MeasuringError("the clock stands still or runs backwards: nothing was measured.")
        if len(good) == 1:
            return cls(good[0], 0.0, 1)
        low, middle, high = statistics.quantiles(good, n=4, method="inclusive")
        return cls(middle, (high - low) / 2, len(good))


def measure(runs: Sequence[Run], clock: Callable[[], float] = time.perf_counter) -> list[Timing]:
    """Return how long each run takes; repeats alternate between the runs.

    Args:
        runs: The runs to measure.
        clock: A function that returns the time in seconds.

    Raises:
        MeasuringError: No repeat of a run has a duration.
    """
    for _ in range(WARM_UP):
        for run in runs:
            run()
    whole: list[list[float]] = [[] for _ in runs]
    torn: list[list[float]] = [[] for _ in runs]
    while pending := [i for i in range(len(runs)) if _wants_more(whole[i], torn[i])]:
        for place in pending:
            interruptions, waited, start = _interruptions(), _waited_ms(), clock()
            runs[place]()
            took = 1000 * (clock() - start)
            if took > 0 and _interruptions() == interruptions:
                whole[place].append(took)
            else:
                torn[place].append(took - (_waited_ms() - waited))
    return [
        Timing.of(good if len(good) >= FEWEST else good + bad)
        for good, bad in zip(whole, torn, strict=True)
    ]


def _wants_more(whole: Sequence[float], torn: Sequence[float]) -> bool:
    if len(whole) < FEWEST:
        return len(whole) + len(torn) < PATIENCE * FEWEST
    return len(whole) < MANY and sum(whole) < ENOUGH_MS


def _interruptions() -> int:
    """Return how often the kernel has taken a processor away from this process."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _waited_ms() -> float:
    """Return how long this thread has waited for a processor; 0 where the system does not say."""
    try:
        return int(WAITING.read_text().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0
