"""Which precision is computed in: the network's own, but nothing is summed up in half of one."""

from __future__ import annotations

import copy

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


def single_precision(model: nn.Module) -> nn.Module:
    """Return a float32 copy of a network with parameters in half precision; others are returned."""
    if not any(one.dtype in HALVES for one in model.parameters()):
        return model
    return copy.deepcopy(model).to(torch.float32)
