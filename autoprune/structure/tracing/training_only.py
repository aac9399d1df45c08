"""Layers that run in training mode only: auxiliary heads, deep supervision.

A trace in evaluation mode misses them, but their inputs must shrink with the layers that they read,
so that the pruned network can be trained further.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from autoprune.structure.inputs import run
from autoprune.structure.surgery import cut
from autoprune.structure.tracing.module_stack import ModuleStack


def in_training_mode(model: nn.Module) -> nn.Module:
    """Return a copy in training mode, except for its normalisation and dropout layers.

    Its forward pass takes the branches of training, but works with one sample and updates nothing.
    """
    copied = cut(model, {}).train()
    for module in copied.modules():
        if isinstance(module, (_NormBase, _DropoutNd)):
            module.eval()
    return copied


def modules_with_same_views(model: nn.Module, inputs: Any) -> frozenset[str]:
    """Return the paths of modules that call the same views in training mode as in evaluation mode.

    Views are known by their numbers, which one more would shift. What a module does in training
    mode is not known if the forward pass fails there before.
    """
    evaluated, trained = _views(model, inputs), _views(in_training_mode(model), inputs)
    return frozenset(path for path, views in evaluated.items() if trained.get(path) == views)


def _views(model: nn.Module, inputs: Any) -> dict[str, list[list[Any]]]:
    modules = ModuleStack()
    with suppress(Exception), torch.no_grad(), modules.watching(model):
        run(model, inputs)
    return modules.views


def unread_weights(model: nn.Module, read: Container[str]) -> list[str]:
    """Return the names of the weights (parameters of two or more dimensions) not in `read`."""
    named = model.named_parameters()
    return [name for name, tensor in named if tensor.dim() > 1 and name not in read]
