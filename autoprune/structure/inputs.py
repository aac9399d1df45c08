"""Model inputs of any form: a tensor, or a tuple, list or mapping of tensors, batch first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model: tuples and lists are positional arguments, mappings keyword arguments."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs)


def sample(inputs: Inputs, batch: int) -> Any:
    """Return inputs with the given batch size, repeating samples where there are too few."""

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        return leaf[torch.arange(batch, device=leaf.device) % len(leaf)]

    return tree_map(resize, inputs)


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's tensors are; the CPU if it has none."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device
