"""How long work tells what it is doing; silent unless somebody listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

# Seconds between two plain lines; the end of a stage is always told.
INTERVAL = 5.0


@dataclass(frozen=True)
class SearchState:
    """Where a search stands after a trial.

    Attributes:
        done: evaluations so far.
        total: evaluations planned.
        best: best reward so far, None if there is none.
        detail: the last trial in words.
        costs: of the best network so far, as shares of the dense one's, by cost name.
        failed: evaluations that failed.
        per_minute: evaluations a minute in this session, None as long as nobody knows.
        seconds_left: until the search is over by its trials or its time, likewise.
        busy: workers elsewhere that have something to do; None where there are none.
        number: of the last trial among all that the search made, in all its rounds, from 1.
        value: its reward, None if it failed.
    """

    done: int
    total: int
    best: float | None
    detail: str
    costs: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0
    per_minute: float | None = None
    seconds_left: float | None = None
    busy: int | None = None
    number: int = 0
    value: float | None = None

    @property
    def words(self) -> str:
        """The same for people, without the counts and the time."""
        costs = ", ".join(f"{name} {share:.1%}" for name, share in self.costs.items())
        best = "" if self.best is None else f"best reward {self.best:.4g}"
        parts = [f"{best} at {costs}" if best and costs else best, f"last {self.detail}"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [] if self.per_minute is None else [f"{self.per_minute:.3g} a minute"]
        parts += [] if self.busy is None else [f"workers busy {self.busy}"]
        return "; ".join(filter(None, parts))


class Progress:
    """Receives news of long work; this one ignores them.

    Attributes:
        stream: that the news are written to; None if to none.
    """

    stream: IO[str] | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage has come."""

    def searched(self, state: SearchState) -> None:
        """Say that a trial is finished."""

    def note(self, text: str) -> None:
        """Say something once."""


class _Speed:
    """How quickly a stage comes on since it was first heard of."""

    def __init__(self, began: float, done: int) -> None:
        self._began, self._first, self.done = began, done, done

    def left(self, now: float, total: int) -> str:
        """Return the time that is left in words; nothing as long as nobody knows."""
        if not self._first < self.done < total:
            return ""
        return _left((now - self._began) / (self.done - self._first) * (total - self.done))


def _left(seconds: float) -> str:
    return f", {seconds:.0f} s left" if seconds < 120 else f", {seconds / 60:.0f} min left"


class PlainProgress(Progress):
    """A line now and then, and one at the end of every stage."""

    def __init__(
        self,
        stream: IO[str] | None = None,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the stream (standard error by default), seconds between lines, and a clock."""
        self.stream = stream or sys.stderr
        self._interval = interval
        self._clock = clock
        self._told = clock()
        self._speeds: dict[str, _Speed] = {}

    def step(self, stage: str, done: int, total: int) -> None:
        """Tell how far the stage is, and how long it will take."""
        speed = self._speeds.get(stage)
        if speed is None or done < speed.done:  # another stage of this name
            speed = self._speeds[stage] = _Speed(self._clock(), done)
        speed.done = done
        left = speed.left(self._clock(), total)
        self._tell(f"{stage}: {done} of {total}{left}", done == total)

    def searched(self, state: SearchState) -> None:
        """Tell the trial."""
        left = "" if state.seconds_left is None else _left(state.seconds_left)
        text = f"search: {state.done} of {state.total}, {state.words}{left}"
        self._tell(text, state.done == state.total)

    def note(self, text: str) -> None:
        """Tell it."""
        self._tell(text, must=True)

    def _tell(self, line: str, must: bool) -> None:
        now = self._clock()
        if must or now - self._told >= self._interval:
            self._told = now
            print(line, file=self.stream, flush=True)
