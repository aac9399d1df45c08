"""Layers that run in training mode only: auxiliary heads, deep supervision.

Evaluation does not see them. Whoever trains the pruned network further needs their inputs to shrink
with the layers that they read.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from autoprune.structure.surgery import cut


def in_training_mode(model: nn.Module) -> nn.Module:
    """Return a copy in training mode, in which normalisations and dropout work as in evaluation.

    Its forward pass takes the ways of training, but one sample is enough and nothing is written.
    """
    copied = cut(model, {}).train()
    for module in copied.modules():
        if isinstance(module, (_NormBase, _DropoutNd)):
            module.eval()
    return copied


def idle_weights(model: nn.Module, read: set[str]) -> list[str]:
    """Return the weights among the parameters that are not in `read`."""
    named = model.named_parameters()
    return [name for name, tensor in named if tensor.dim() > 1 and name not in read]
