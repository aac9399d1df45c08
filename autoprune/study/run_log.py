"""What a search says while it runs, kept in its run directory: a log, and where it stands."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from autoprune.core.files import write_whole
from autoprune.core.notes import LOGGER, listening
from autoprune.core.progress import Progress, SearchState
from autoprune.core.records import Measured, Natural, Record, Text, plain, read
from autoprune.core.untrusted import read_json
from autoprune.errors import RunError, describe, file_fault
from autoprune.study.run_directory import RunDirectory

# Seconds between two records of where a stage stands; trials and new stages are recorded at once.
INTERVAL = 5.0


class Standing(Record, frozen=True):
    """Where a search stands.

    Attributes:
        stage: the stage it is in.
        done: parts of it that are done; trials of a search.
        total: of how many.
        first: parts that were done when the session came to the stage.
        began: when that was, in seconds since the epoch.
        at: when this was written, likewise.
    """

    stage: Text
    done: Natural
    total: Natural
    first: Natural
    began: Measured
    at: Measured

    @property
    def per_minute(self) -> float | None:
        """Parts a minute; None as long as nobody knows."""
        made, seconds = self.done - self.first, self.at - self.began
        return 60 * made / seconds if made > 0 and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until the stage is over, at this pace; None as long as nobody knows."""
        pace = self.per_minute
        return None if pace is None else 60 * max(0, self.total - self.done) / pace


def load_standing(run: RunDirectory) -> Standing | None:
    """Return where the search stands that writes here, or wrote last; None if none does.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return read(read_json(run.standing_path), Standing)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(run.standing_path)!r}: {file_fault(error)}") from error


@contextmanager
def logged(run: RunDirectory, progress: Progress) -> Iterator[Progress]:
    """Write down what happens inside, and give a progress that does and passes it on.

    Args:
        run: the run directory, which is there.
        progress: told what happens.
    """
    if run.log_path.is_symlink():  # never written through
        run.log_path.unlink()
    handler = _LogFile(run.log_path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    try:
        with listening(handler):
            yield _Logged(run, progress, handler)
    except BaseException as error:
        handler.handle(_record(f"ended by {describe(error)}"))
        raise
    finally:
        handler.close()


class _LogFile(logging.FileHandler):
    """The log; a search is not lost where it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


class _Logged(Progress):
    """Passes all on, and writes it down."""

    def __init__(self, run: RunDirectory, progress: Progress, handler: logging.Handler) -> None:
        self._path, self._inner, self._handler = run.standing_path, progress, handler
        self.stream = progress.stream
        self._standing: Standing | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        """Write down where a stage stands, now and then."""
        self._inner.step(stage, done, total)
        last, now = self._standing, time.time()
        if last is None or last.stage != stage:
            self._handler.handle(_record(f"stage {stage}"))
            self._write(Standing(stage, done, total, done, now, now))
        elif done >= total or now - last.at > INTERVAL:
            self._write(Standing(stage, done, total, min(last.first, done), last.began, now))

    def searched(self, state: SearchState) -> None:
        """Write down a trial."""
        self._inner.searched(state)
        last, now = self._standing, time.time()
        if last is None or last.stage != "search":
            first, began = state.done - 1, now
        else:
            first, began = last.first, last.began
        self._handler.handle(_record(f"trial {state.done} of {state.total}: {state.words}"))
        self._write(Standing("search", state.done, state.total, first, began, now))

    def note(self, text: str) -> None:
        """Pass a note on; the log has it from its logger."""
        self._inner.note(text)

    def _write(self, standing: Standing) -> None:
        self._standing = standing
        text = json.dumps(plain(standing)) + "\n"
        with suppress(OSError):  # a search is not lost for that
            write_whole(self._path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _record(message: str) -> logging.LogRecord:
    return logging.LogRecord(LOGGER, logging.INFO, __file__, 0, message, None, None)
