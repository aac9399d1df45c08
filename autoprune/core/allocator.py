"""How freed memory is treated while many networks are run, and how much there is to take."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

# Parameters of glibc's mallopt(3), values in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEEP_ALL = {M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: 1 << 30}
# Where glibc's own moving thresholds end once large blocks were freed. Setting a threshold stops it
# from moving: the initial 128 KiB would leave the process slower than it was.
SETTLED = {M_MMAP_THRESHOLD: 1 << 25, M_TRIM_THRESHOLD: 1 << 26}
# Where nothing tells how much memory there is.
ASSUMED_BYTES = 4 << 30
# Limits of control groups and what is used of them, for versions 2 and 1.
CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


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


def memory_share(device: torch.device) -> int:
    """Return how much of the free memory one task may take, bytes.

    It is the largest power of two within half of it: what other programs take meanwhile seldom
    changes that, so that equal runs on one machine get equal shares.
    """
    half = free_memory(device) // 2
    return 1 << (max(1, half).bit_length() - 1)


def free_memory(device: torch.device) -> int:
    """Return the memory that is free on a device, bytes; on the CPU also within a container."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return min([_available(), *_left_of_groups()])


def _available() -> int:
    """Return what the system could give without swapping, or all that it has."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return ASSUMED_BYTES


def _left_of_groups() -> Iterator[int]:
    """Yield what is left below the limit of every control group that this process is in."""
    for folder in _group_folders():
        for limit, used in CGROUP_FILES:
            try:
                most = (folder / limit).read_text().strip()
                if most != "max":
                    yield max(0, int(most) - _held(folder, used))
            except (OSError, ValueError):
                continue


def _held(folder: Path, used: str) -> int:
    """Return what a group holds, less the files' pages that it would let go."""
    lines = (folder / "memory.stat").read_text().splitlines()
    names = ("inactive_file", "total_inactive_file")
    cached = [int(line.split()[1]) for line in lines if line.split()[0] in names]
    return int((folder / used).read_text()) - max(cached, default=0)


def _group_folders() -> Iterator[Path]:
    """Yield the folders of the memory groups, from the process's own up to the root."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        own = top / place.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))
