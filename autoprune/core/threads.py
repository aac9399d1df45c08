"""Threads that compute with PyTorch: pools, and a limit on how long one may take."""

from __future__ import annotations

import contextvars
import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")

# How long a thread that is given up may take to notice, before the caller goes on beside it.
_NOTICE_SECONDS = 1.0


class OwnLock:
    """A lock; a copy of it in another process is a lock of that process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Wait for the lock."""
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        """Release it."""
        self._lock.release()

    def __reduce__(self) -> tuple[type[OwnLock], tuple[()]]:
        """Return what makes another one."""
        return OwnLock, ()


@contextmanager
def shared_threads(number: int, each: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Provide a pool of threads, which compute with the caller's settings of PyTorch.

    Args:
        number: of threads.
        each: PyTorch threads within each of them; by default they divide PyTorch's among them.
    """
    own = torch.get_num_threads()
    each = max(1, own // number) if each is None else each
    try:
        with ThreadPoolExecutor(number, "autoprune", _settings(each)) as pool:
            yield pool
    finally:
        torch.set_num_threads(own)


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """Call a function in a thread of its own, and give it up when it takes too long.

    It is ended where it runs Python code. Python can end nothing that waits or computes elsewhere:
    that goes on beside the caller until it comes back, or the process ends.

    Args:
        seconds: that it may take.
        function: computes with the caller's settings of PyTorch.

    Raises:
        TimeoutError: it took longer.
    """
    outcome: Future[Result] = Future()
    context, use_settings = contextvars.copy_context(), _settings(torch.get_num_threads())

    def call() -> None:
        try:
            use_settings()
            outcome.set_result(context.run(function))
        except BaseException as error:
            if not outcome.done():
                outcome.set_exception(error)

    thread = threading.Thread(target=call, name="autoprune-limited", daemon=True)
    thread.start()
    try:
        return outcome.result(seconds)
    except NotDone:
        if outcome.done():  # just now, or the function's own error
            return outcome.result()
        raise TimeoutError(f"took longer than {seconds:g} s") from None
    finally:
        if not outcome.done():
            _end(thread)


def _settings(threads: int) -> Callable[[], None]:
    """Return what makes a thread compute as this one does: PyTorch keeps such settings apart.

    Args:
        threads: PyTorch threads within that thread.
    """
    gradients, device = torch.is_grad_enabled(), torch.get_default_device()
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def use() -> None:
        # PyTorch initialises its number from the last setting of any thread when first asked.
        torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if current is not None:
            torch.cuda.set_device(current)

    return use


def _end(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread, and wait until it is over, but not for long."""
    identity = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))
    thread.join(_NOTICE_SECONDS)
