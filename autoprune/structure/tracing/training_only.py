"""Layers that run in training mode only: auxiliary heads, deep supervision.

A trace in evaluation mode misses them, but their inputs must shrink with the layers that they read,
so that the pruned network can be trained further.
"""

from __future__ import annotations

from collections.abc import Container

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from autoprune.structure.surgery import cut


def in_training_mode(model: nn.Module) -> nn.Module:
    """Return a copy in training mode, except for its normalisation and dropout layers.

    Its forward pass takes the branches of training, but works with one sample and updates nothing.
    """
    copied = cut(model, {}).train()
    for module in copied.modules():
        if isinstance(module, (_NormBase, _DropoutNd)):
            module.eval()
    return copied


def unread_weights(model: nn.Module, read: Container[str]) -> list[str]:
    """Return the names of the weights (parameters of two or more dimensions) not in `read`."""
    named = model.named_parameters()
    return [name for name, tensor in named if tensor.dim() > 1 and name not in read]
