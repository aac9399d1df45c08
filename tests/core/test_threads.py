"""Threads compute with the caller's settings; a function is given up when it takes too long."""

from __future__ import annotations

import pickle
import threading
from contextvars import ContextVar

import pytest
import torch

from autoprune.core.threads import OwnLock, shared_threads, within

NAME: ContextVar[str] = ContextVar("name", default="")


def test_a_copy_of_a_lock_is_free() -> None:
    lock = OwnLock()
    with lock:
        copy = pickle.loads(pickle.dumps(lock))
        with copy:
            pass
        assert not lock._lock.acquire(blocking=False)
    with lock:
        pass


def test_results_and_errors_are_the_function_s() -> None:
    assert within(60.0, lambda: 3) == 3
    with pytest.raises(KeyError, match="top5"):
        within(60.0, lambda: {}["top5"])


def test_a_timeout_of_the_function_s_own_is_its_own() -> None:
    def fail() -> None:
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        within(60.0, fail)


def test_it_computes_as_the_caller_does() -> None:
    token, threads = NAME.set("mine"), torch.get_num_threads()
    try:
        assert within(60.0, lambda: (NAME.get(), torch.get_num_threads())) == ("mine", threads)
    finally:
        NAME.reset(token)
    assert torch.get_num_threads() == threads
    with torch.no_grad(), torch.device("meta"):
        seen = within(60.0, lambda: (torch.is_grad_enabled(), torch.zeros(1).device.type))
    assert seen == (False, "meta")


def test_a_pool_computes_as_the_caller_does() -> None:
    own = torch.get_num_threads()
    with torch.no_grad(), torch.device("meta"), shared_threads(2, each=1) as pool:
        seen = pool.submit(
            lambda: (
                torch.get_num_threads(),
                torch.is_grad_enabled(),
                torch.zeros(1).device.type,
            )
        ).result(60)
    assert seen == (1, False, "meta")
    assert torch.get_num_threads() == own


def test_what_runs_for_ever_is_ended() -> None:
    ended = threading.Event()

    def for_ever() -> None:
        try:
            while True:
                pass
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"^took longer than 0.01 s$"):
        within(0.01, for_ever)
    assert ended.wait(30)


def test_what_waits_for_ever_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError, match="took longer"):
        within(0.01, release.wait)
    release.set()
