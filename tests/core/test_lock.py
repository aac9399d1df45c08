"""One process at a time, and what the others are told."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
from multiprocessing.synchronize import Event
from pathlib import Path

import filelock
import pytest

from autoprune.core import lock
from autoprune.core.lock import Holder, held, holder_path
from autoprune.errors import RunError
from autoprune.study.run_directory import RunDirectory

FORK = multiprocessing.get_context("fork")


def _hold(path: Path, taken: Event) -> None:
    with RunDirectory(path).held():
        taken.set()
        signal.pause()


@pytest.fixture
def other(tmp_path: Path):
    """A process that holds the run directory `run` until it is killed."""
    taken = FORK.Event()
    process = FORK.Process(target=_hold, args=(tmp_path / "run", taken))
    process.start()
    assert taken.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_who_is_there(other, tmp_path: Path) -> None:
    told = (
        rf"run' is in use by process {other.pid} of \S+ on {socket.gethostname()}, since 2\d{{3}}-"
    )
    with pytest.raises(RunError, match=told), RunDirectory(tmp_path / "run").held():
        raise AssertionError("never held")
    other.kill()  # leaves its files, but no lock
    other.join()
    assert (tmp_path / "run" / ".lock-holder").exists()
    RunDirectory(tmp_path / "run").check_free()
    with RunDirectory(tmp_path / "run").held():
        named = Holder.read(tmp_path / "run" / ".lock-holder")
        assert named is not None and named.pid == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_nothing_is_left_of_a_directory_where_nothing_was_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new/deep", "there"):
        with RunDirectory(tmp_path / name).held():
            assert (tmp_path / name / ".lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with RunDirectory(tmp_path / "new").held():
        (tmp_path / "new" / "config.toml").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("back", [False, True])
def test_a_directory_that_is_removed_meanwhile(back: bool, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(RunError, match=r"run' was removed .*while"), run.held():
        shutil.rmtree(run.path)
        if back:  # another search begins there
            run.path.mkdir()
            (run.path / ".lock-holder").write_text("another's")
            run = RunDirectory(tmp_path / "run")
        raise OSError("disk I/O error")
    if back:
        assert (run.path / ".lock-holder").read_text() == "another's"


def test_a_directory_that_is_made_read_only_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(RunError, match="run' was made read-only while"),
        RunDirectory(tmp_path / "run").held(),
    ):
        monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everything
        raise RuntimeError("attempt to write a readonly database")


def test_other_errors_are_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), RunDirectory(tmp_path / "run").held():
        raise KeyError("mine")


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Holder, "write", full)
    with pytest.raises(OSError, match="No space left"), held(tmp_path / "lock", "it"):
        raise AssertionError("never held")


def test_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"^output '.*/run' cannot be made: .* is not a directory"):
        run.check_free()
    with pytest.raises(RunError, match="cannot be written: Not a directory"), run.held():
        pass


def _busy(path: Path, holder: object) -> None:
    """Say that somebody holds a lock that this process holds."""
    holder_path(path).write_text(json.dumps(holder))


@pytest.mark.parametrize(
    ("holder", "told"),
    [
        ({"pid": 7, "host": "node-3", "user": "ann", "since": "today"},
         r"process 7 of ann on node-3, since today \(if that is over, remove '.*/lock'\)"),
        ({"pid": 7}, "another process"),
        ({"pid": "7", "host": "a", "user": "b", "since": "c"}, "another process"),
        ([3], "another process"),
    ],
)  # fmt: skip
def test_holders_elsewhere_and_unknown(holder: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with filelock.FileLock(path):
        _busy(path, holder)
        with pytest.raises(RunError, match=f"^it is in use by {told}.$"), held(path, "it"):
            pass


def test_children_of_a_dead_process_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_ORPHANS_SECONDS", 0.1)
    gone = FORK.Process(target=int)
    gone.start()
    gone.join()
    path = tmp_path / "lock"
    with filelock.FileLock(path):
        _busy(path, {"pid": gone.pid, "host": socket.gethostname(), "user": "a", "since": "b"})
        told = rf"what is left of process {gone.pid} "
        with pytest.raises(RunError, match=told), held(path, "it"):
            pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError]
)
def test_a_file_system_without_locks(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without(filelock.FileLock):  # type: ignore[misc]
        def acquire(self, *args: object, **options: object) -> None:
            raise error

    monkeypatch.setattr(lock, "FileLock", Without)
    path = tmp_path / "lock"
    with (
        held(path, "it"),
        pytest.raises(RunError, match=f"it is in use by process {os.getpid()} "),
        held(path, "it"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".lock-holder", "..lock-holder.part"])
def test_a_link_to_another_file_is_not_written_through(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    with held(tmp_path / ".lock", "the run"):
        holder = Holder.read(tmp_path / ".lock-holder")
        assert holder is not None and holder.pid == os.getpid()
    assert (tmp_path / "mine").read_text() == "mine"
