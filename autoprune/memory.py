"""How freed memory is treated while many networks are run one after the other."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Parameters of glibc's mallopt(3), values in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_ALL = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 1 << 30}
# Where glibc's own moving thresholds end once large blocks were freed. Setting a threshold stops it
# from moving: the initial 128 KiB would leave the process slower than it was.
SETTLED = {M_MMAP_THRESHOLD: 1 << 25, M_TRIM_THRESHOLD: 1 << 26}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed activations for the next ones; also a decorator.

    By default glibc hands every large block back to the system and faults it in again, zeroed, for
    the next layer: a fifth to a third of the time of a small network's forward pass on a CPU. With
    other C libraries this does nothing.
    """
    _treat(KEEP_ALL)
    try:
        yield
    finally:
        _treat(SETTLED, trim=True)


@contextmanager
def settled_memory() -> Iterator[None]:
    """Within `kept_memory`: treat memory as programs usually do, so that latencies are theirs."""
    _treat(SETTLED)
    try:
        yield
    finally:
        _treat(KEEP_ALL)


def _treat(thresholds: Mapping[int, int], trim: bool = False) -> None:
    """Set glibc's thresholds and, if asked to, hand back what is free; nothing elsewhere."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(libc, "mallopt", None)
    if libc is None or mallopt is None:
        return
    for parameter, value in thresholds.items():
        mallopt(parameter, value)
    if trim:
        libc.malloc_trim(0)
