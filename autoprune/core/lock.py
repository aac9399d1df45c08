"""One process at a time: whoever writes a run directory or a latency table holds a lock on it."""

from __future__ import annotations

import errno
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from autoprune.core.files import write_whole
from autoprune.core.records import Natural, Record, Text, plain, read
from autoprune.core.untrusted import read_json
from autoprune.errors import RunError

# Some network filesystems have no locks; a file that names its process is the lock there.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
# Children of a killed process, such as those that load images, share its lock until they notice.
_ORPHANS_SECONDS = 10.0


class Holder(Record, frozen=True):
    """A process that holds a lock; `since` is local time to the second."""

    pid: Natural
    host: Text
    user: Text
    since: Text

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a user id without a name, as in containers
            user = f"user {os.getuid()}"
        since = datetime.now().isoformat(" ", timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), user, since)

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Return whom a file names, None if it names nobody."""
        try:
            return read(read_json(path), cls)
        except (OSError, ValueError):
            return None

    def write(self, path: Path) -> None:
        """Inverse of `read`."""
        text = json.dumps(plain(self)) + "\n"
        write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be over."""
        if not self.is_here or os.name == "nt":  # os.kill would end a process on Windows
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


def holder_path(lock: Path) -> Path:
    """Return the file that says who holds a lock."""
    return lock.with_name(f"{lock.name}-holder")


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which is removed at the end.

    The operating system frees the lock of a process that was killed, so that no stale one is left.

    Args:
        lock: the file, in a folder that is there.
        what: is locked, to open messages with: "the run in 'runs/a'".

    Raises:
        RunError: another process holds it, or its folder is removed or closed to us meanwhile.
        OSError: the file cannot be written.
    """
    taken, own, named = _take(lock, what), Holder.here(), holder_path(lock)
    try:
        own.write(named)
        try:
            yield
        except Exception as error:
            if (reason := _lost(named, own)) is not None:
                raise RunError(f"{what} {reason} while it was being written.") from error
            raise
    finally:
        if Holder.read(named) == own:  # else somebody removed the folder, or made it again
            with suppress(OSError):
                named.unlink()
                lock.unlink(missing_ok=True)
        taken.release()


def _take(lock: Path, what: str) -> BaseFileLock:
    """Acquire the lock, waiting only for what a dead process left behind."""
    try:
        return _acquired(lock, 0.0)
    except Timeout:
        holder = Holder.read(holder_path(lock))
    if holder is not None and holder.is_dead:
        with suppress(Timeout):
            return _acquired(lock, _ORPHANS_SECONDS)
    raise RunError(f"{what} is in use by {_described(holder, lock)}.")


def _acquired(lock: Path, timeout: float) -> BaseFileLock:
    for kind in (FileLock, SoftFileLock):
        taken = kind(lock)
        try:
            taken.acquire(timeout=timeout)
            return taken
        except Timeout:
            raise
        except NotImplementedError:  # how some versions say that there are no locks
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS or kind is SoftFileLock:
                raise
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(lock))


def _described(holder: Holder | None, lock: Path) -> str:
    if holder is None:
        return "another process"
    if holder.is_dead:
        return f"what is left of {holder}, which is over: end its children"
    if not holder.is_here:
        return f"{holder} (if that is over, remove {str(lock)!r})"
    return str(holder)


def _lost(named: Path, own: Holder) -> str | None:
    """Return what became of the folder that the lock lies in; None if it is as it was."""
    folder = named.parent
    if not folder.exists():
        return "was removed"
    if not os.access(folder, os.W_OK):
        return "was made read-only"
    return None if Holder.read(named) == own else "was removed or replaced"
