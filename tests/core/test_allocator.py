"""Freed memory stays with the process inside `kept_memory`; how much there is to take."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from autoprune.core import allocator
from autoprune.core.allocator import free_memory, kept_memory, memory_share

CPU = torch.device("cpu")
GIB = 1 << 30
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
BLOCK = 1 << 22


def _faults(times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    pages = 4 * BLOCK // resource.getpagesize()  # of one block
    with kept_memory():
        _faults(5)
        assert _faults(20) < 10 * pages


@glibc
def test_memory_goes_back_to_the_system_afterwards() -> None:
    with kept_memory():
        _faults(2)
    # A huge block is mapped and faulted in again.
    huge = 64 * BLOCK
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        torch.empty(huge // 4).fill_(1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt > before


def test_the_first_error_comes_through() -> None:
    with pytest.raises(ValueError, match="inside"), kept_memory():
        raise ValueError("inside")


@pytest.mark.parametrize(
    ("free", "share"), [(20 * GIB, 8 * GIB), (16 * GIB, 8 * GIB), (16 * GIB - 2, 4 * GIB), (0, 1)]
)
def test_a_share_is_a_power_of_two_within_half(
    free: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocator, "free_memory", lambda device: free)
    assert memory_share(CPU) == share


def test_free_memory_is_within_what_there_is() -> None:
    assert 0 < free_memory(CPU) < 1 << 46


@pytest.mark.parametrize("limit, used", allocator.CGROUP_FILES)
def test_containers_bound_free_memory(
    limit: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5,000 bytes 4,000 are held, 1,500 of them files that would be let go: 2,500 are left."""
    inner, outer = tmp_path / "outer" / "inner", tmp_path / "outer"
    inner.mkdir(parents=True)
    (inner / limit).write_text("max\n" if limit == "memory.max" else "9223372036854771712\n")
    (outer / limit).write_text("5000\n")
    for folder in (inner, outer):
        (folder / used).write_text("4000\n")
        (folder / "memory.stat").write_text("cache 3000\ninactive_file 1500\n")
    monkeypatch.setattr(allocator, "_group_folders", lambda: iter((inner, outer, tmp_path)))
    assert free_memory(CPU) == 2500


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "read_text", missing)
    assert allocator._available() >= free_memory(CPU) > 0
    monkeypatch.setattr(allocator.os, "sysconf", missing)
    assert free_memory(CPU) == allocator.ASSUMED_BYTES
