"""Which layers without a bias would add one if they had it.

A network may use a module's weight alone (`F.conv2d(x, module.weight)`): a bias that is given to
the module later, by a refit or by folding its BN, would be left out silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoprune.structure.inputs import Inputs, run
from autoprune.structure.operators import OperatorMode

PLAIN_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class _Watch(OperatorMode):
    """Notes which of the tensors that are offered an operator reads."""

    def __init__(self, offered: Mapping[int, str]) -> None:
        super().__init__()
        self._offered = offered
        self.taken: set[str] = set()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        read = map(id, tree_leaves((args, kwargs)))
        self.taken |= {self._offered[leaf] for leaf in read if leaf in self._offered}
        return func(*args, **kwargs)


def bias_takers(model: nn.Module, inputs: Inputs) -> frozenset[str]:
    """Return the paths of plain layers without a bias that read it once they have one.

    The network has zeros for biases during one forward pass, and is as it was afterwards.
    """
    bare = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, PLAIN_LAYERS) and module._parameters.get("bias", ...) is None
    }
    zeros = {
        path: nn.Parameter(module.weight.new_zeros(len(module.weight)), requires_grad=False)
        for path, module in bare.items()
    }
    watch = _Watch({id(bias): path for path, bias in zeros.items()})
    try:
        for path, module in bare.items():
            module.bias = zeros[path]
        with torch.inference_mode(), watch:
            run(model, inputs)
    finally:
        for module in bare.values():
            module.bias = None
    return frozenset(watch.taken)
