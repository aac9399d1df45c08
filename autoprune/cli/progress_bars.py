"""What a search says while it runs: bars on a terminal, plain lines into a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from autoprune.core.notes import forwarded_notes
from autoprune.core.progress import PlainProgress, Progress, SearchState


@contextmanager
def listen(quiet: bool = False, stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield who is told about a search.

    Args:
        quiet: say nothing.
        stream: to write to; standard error by default.
    """
    stream = stream or sys.stderr
    with _display(quiet, stream) as progress, forwarded_notes(progress):
        yield progress


@contextmanager
def _display(quiet: bool, stream: TextIO) -> Iterator[Progress]:
    if quiet:
        yield Progress()
    elif stream.isatty():
        with _bars(stream) as bars:
            yield RichProgress(bars)
    else:
        yield PlainProgress(stream)


def _bars(stream: TextIO) -> Bars:
    return Bars(
        TextColumn("{task.description:<10}"),
        BarColumn(30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=Console(file=stream, highlight=False),
        transient=True,
    )


class RichProgress(Progress):
    """A bar for every stage, with the best reward so far beside that of the search."""

    def __init__(self, bars: Bars) -> None:
        self._bars, self.stream = bars, bars.console.file
        self._tasks: dict[str, TaskID] = {}

    def step(self, stage: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        self._move(stage, done, total, "")

    def searched(self, state: SearchState) -> None:
        """Move the search's bar."""
        self._move("search", state.done, state.total, escape(state.words))

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(escape(text))

    def _move(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, detail=detail)
        self._bars.update(self._tasks[stage], completed=done, total=total, detail=detail)
