"""Which precision is computed in: the network's own, but nothing is summed up in half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)


def at_least_single(values: Tensor) -> Tensor:
    """Return floats in float32 where they are in less; others, float64 too, as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def float_dtype(model: nn.Module) -> torch.dtype:
    """Return the precision of a network's first floating parameter, the one that inputs meet.

    Its buffers' where it has no such parameter, float32 where it has neither.
    """
    tensors = (*model.parameters(), *model.buffers())
    return next((one.dtype for one in tensors if one.dtype in FLOATS), torch.float32)


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Under autocast, weights are cast whenever they are used.

    A cast that is kept until autocast ends hides from a trace which weight it is, and is out of
    date once the weight is refitted or trained.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
