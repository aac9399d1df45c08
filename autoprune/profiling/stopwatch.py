"""How long things take: alternating repeats, the median and its spread.

Repeats of several runs alternate, so that whatever else the machine does hits all of them alike and
none finds the caches as it left them. On a busy machine the kernel takes the processor away in the
middle of a repeat. Such repeats are left out as long as there are enough others; where there are
not, the time that the calling thread stood waiting for a processor, as Linux counts it, is taken
off. Repeats in which the clock jumps back are made again.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from autoprune.core.untrusted import LEAST, MOST, amount, count, fields, positive
from autoprune.errors import MeasuringError

Run: TypeAlias = Callable[[], object]
"""Does the work once, and returns when it is done."""

WARM_UP = 2
# Repeats that count, of slow runs and of quick ones, and how long a quick one's take in all.
FEWEST, MANY, ENOUGH_MS = 7, 40, 20.0
# So many repeats are made for every one that should count.
PATIENCE = 3
# Nanoseconds on a processor, nanoseconds waiting for one, slices (Linux, proc_pid_schedstat(5)).
WAITING = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Timing:
    """A measured duration.

    Attributes:
        ms: the median.
        spread_ms: half the distance between the quartiles.
        repeats: that counted.
    """

    ms: float
    spread_ms: float
    repeats: int

    @property
    def is_noisy(self) -> bool:
        """Whether the spread exceeds what is measured."""
        return self.spread_ms > self.ms

    @property
    def is_sound(self) -> bool:
        """Whether it can be true: above zero and finite."""
        return LEAST <= self.ms <= MOST and 0 <= self.spread_ms <= MOST

    def scaled(self, factor: float) -> Timing:
        """Return the timing of a machine that is slower by a factor."""
        return Timing(factor * self.ms, factor * self.spread_ms, self.repeats)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Timing:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is no duration above zero.
        """
        return cls(**fields(data, {"ms": positive, "spread_ms": amount, "repeats": count}))

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Timing:
        """Return the timing of some repeats; those of a clock that jumped back do not count.

        Raises:
            MeasuringError: no repeat has a duration.
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
        runs: what is measured.
        clock: seconds, rising.
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
    """Return how long this thread could have run but had no processor (0 where nobody counts)."""
    try:
        return int(WAITING.read_text().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0
