"""A pruned network in the dense network's shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from autoprune.core.policy import PruningPolicy
from autoprune.structure.surgery import deep_copy, kept_positions, named_tensors


def embedded(dense: nn.Module, small: nn.Module, policy: PruningPolicy) -> nn.Module:
    """Return a network of the dense one's shape that computes what a pruned one does.

    Units that are gone have weights of zero: they are zero, and nothing reads them. Buffers, such
    as running statistics, have the dense network's values there.

    Args:
        dense: the network that was cut; it is left as it was.
        small: the pruned network, without tensors that the dense one does not have.
        policy: that it was cut by.
    """
    keep, own, whole = kept_positions(dense, policy), named_tensors(small), deep_copy(dense)
    parameters = {name for name, _ in whole.named_parameters()}
    with torch.no_grad():
        for name, tensor in named_tensors(whole).items():
            if name not in own:
                continue
            if name not in keep:
                tensor.copy_(own[name])
                continue
            if name in parameters:
                tensor.zero_()
            tensor[_lines(keep[name], tensor.shape)] = own[name]
    return whole


def _lines(kept: Mapping[int, torch.Tensor], shape: torch.Size) -> tuple[torch.Tensor, ...]:
    """Return indices of every dimension that broadcast against each other."""
    dims = range(len(shape))
    return tuple(
        kept.get(dim, torch.arange(shape[dim])).view([-1 if one == dim else 1 for one in dims])
        for dim in dims
    )
