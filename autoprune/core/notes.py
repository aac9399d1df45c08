"""Log records of the package, shown by whoever shows the progress of long work.

Every module logs to a logger of its own name. A user who wants the records elsewhere configures
`logging.getLogger("autoprune")` as usual.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from autoprune.core.progress import Progress

LOGGER = "autoprune"


class _Forward(logging.Handler):
    """Passes records on to a progress display."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Show the message, unless a handler of the user's writes it to the same terminal."""
        if not (_is_terminal(self.progress.stream) and any(map(_writes_there, _others(record)))):
            self.progress.note(record.getMessage())


def _others(record: logging.LogRecord) -> Iterator[logging.Handler]:
    """Yield the handlers beside ours that get a record."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        yield from (one for one in logger.handlers if record.levelno >= one.level)
        logger = logger.parent if logger.propagate else None


def _writes_there(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and _is_terminal(handler.stream)


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream in (sys.stdout, sys.stderr)


@contextmanager
def forwarded_notes(progress: Progress) -> Iterator[None]:
    """Show the package's log records, from INFO on, as notes of a progress display.

    A display that shows them already is not told twice.
    """
    handlers = logging.getLogger(LOGGER).handlers
    if any(isinstance(one, _Forward) and one.progress is progress for one in handlers):
        yield
        return
    with listening(_Forward(progress)):
        yield


@contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """Give a handler the package's log records, from INFO on whatever the root logger's level."""
    logger = logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
