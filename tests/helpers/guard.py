"""Watches what a call does outside a folder: files written, processes started, memory, time."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
_CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2,
    "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1,
}  # fmt: skip
"""Audit events that change files, and how many of their first arguments are paths."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class Misdeed(BaseException):
    """Something that no file may lead to; no `except Exception` hides it."""


class Guard:
    """One for the process, since audit hooks stay."""

    def __init__(self, *folders: Path) -> None:
        """Allow changes in some folders alone."""
        self._allowed = tuple(str(folder.resolve()) for folder in (*folders, Path("/dev")))
        self._is_on = False
        self._found: str | None = None
        self._usual = 0
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self, seconds: float, megabytes: float) -> Iterator[None]:
        """Watch what is done inside.

        Args:
            seconds: of processor time that it may take.
            megabytes: by which the process's largest size may grow.

        Raises:
            Misdeed: it did what it may not do.
        """
        self._found, before = None, _peak_megabytes()
        old = signal.signal(signal.SIGPROF, _too_long)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, old)
        if self._found is not None:
            raise Misdeed(self._found)
        if (grown := _peak_megabytes() - before) > megabytes:
            raise Misdeed(f"took {grown:.0f} MB more")

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event in _STARTS:
            self._note(f"{event} {given[0]!r}")
        elif event == "open":
            path, _, flags = given
            if isinstance(path, (str, bytes, os.PathLike)) and flags & _WRITES:
                self._check(event, path)
        elif event in _CHANGES:
            for path in given[: _CHANGES[event]]:
                self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        self._is_on = False  # what follows is ours
        try:
            place = os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))
        except (TypeError, ValueError):
            return
        finally:
            self._is_on = True
        if not any(place == one or place.startswith(one + os.sep) for one in self._allowed):
            self._note(f"{event} {path!r}")

    def _note(self, what: str) -> None:
        self._found = self._found or what


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Misdeed("took too long")


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
