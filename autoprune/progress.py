"""How long work tells what it is doing; silent unless somebody listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

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
    """

    done: int
    total: int
    best: float | None
    detail: str

    @property
    def words(self) -> str:
        """The same for people, without the counts."""
        best = "" if self.best is None else f"best reward {self.best:.4g}; "
        return f"{best}last {self.detail}"


class Progress:
    """Receives news of long work; this one ignores them."""

    def step(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage has come."""

    def searched(self, state: SearchState) -> None:
        """Say that a trial is finished."""

    def note(self, text: str) -> None:
        """Say something once."""


class PlainProgress(Progress):
    """A line now and then, and one at the end of every stage."""

    def __init__(
        self,
        stream: TextIO | None = None,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the stream (standard error by default), seconds between lines, and a clock."""
        self._stream = stream or sys.stderr
        self._interval = interval
        self._clock = clock
        self._told = clock()

    def step(self, stage: str, done: int, total: int) -> None:
        """Tell how far the stage is."""
        self._tell(f"{stage}: {done} of {total}", done == total)

    def searched(self, state: SearchState) -> None:
        """Tell the trial."""
        self._tell(
            f"search: {state.done} of {state.total}, {state.words}", state.done == state.total
        )

    def note(self, text: str) -> None:
        """Tell it."""
        self._tell(text, must=True)

    def _tell(self, line: str, must: bool) -> None:
        now = self._clock()
        if must or now - self._told >= self._interval:
            self._told = now
            print(line, file=self._stream, flush=True)
