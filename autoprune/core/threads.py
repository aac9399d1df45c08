"""Threads that share those that PyTorch may use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def shared_threads(number: int, each: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Provide a pool of threads.

    Args:
        number: of threads.
        each: PyTorch threads within each of them; by default they divide PyTorch's among them.
    """
    within = torch.get_num_threads()
    each = max(1, within // number) if each is None else each
    try:
        with ThreadPoolExecutor(number, "autoprune", _use, (each,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(within)


def _use(threads: int) -> None:
    """Set the number of PyTorch threads for computations in the current thread."""
    # PyTorch initialises its number from the last setting of any thread when first asked.
    torch.get_num_threads()
    torch.set_num_threads(threads)
