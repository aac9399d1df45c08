"""Freed memory stays with the process inside `kept_memory`, and goes back afterwards."""

from __future__ import annotations

import ctypes
import resource
import sys

import pytest
import torch

from autoprune.memory import kept_memory

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc"
)
BLOCK = 1 << 22


def _faults(times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_blocks_are_used_again_without_page_faults() -> None:
    pages = 4 * BLOCK // resource.getpagesize()  # of one block
    with kept_memory():
        _faults(5)
        assert _faults(20) < 10 * pages


def test_memory_goes_back_to_the_system_afterwards() -> None:
    with kept_memory():
        _faults(2)
    # A huge block is mapped and faulted in anew.
    huge = 64 * BLOCK
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        torch.empty(huge // 4).fill_(1.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt > before


def test_the_first_error_comes_through() -> None:
    with pytest.raises(ValueError, match="inside"), kept_memory():
        raise ValueError("inside")
