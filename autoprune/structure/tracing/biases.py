"""Finds the layers that add the bias of their module, or would if it had one.

A network may use a module's weight alone (`F.conv2d(x, module.weight)`). A bias that the module
gets later, from a refit or from folding its BN, would then be ignored silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.structure.groups import LayerSpec
from autoprune.structure.inputs import Inputs, run
from autoprune.structure.layers import LAYER_KINDS, LAYER_MODULES, channels
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.operators import OperatorMode, whole_operators


class _BiasMode(OperatorMode):
    """Records weights that an operator uses with another bias than that of their module."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules = {id(module.weight): (name, module) for name, module in modules.items()}
        self.without_own_bias: set[str] = set()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if name in LAYER_KINDS:
            bias = self.origin(Call(name, func, args, kwargs, out).arg(2, "bias"))
            owner = self._modules.get(id(self.origin(args[1])))
            if owner is not None and bias is not owner[1].bias:
                self.without_own_bias.add(owner[0])
        return out


def layers_adding_bias(
    model: nn.Module, layers: Iterable[LayerSpec], inputs: Inputs
) -> frozenset[str]:
    """Return the weights of the layers that add their module's bias at every call.

    Modules without a bias get a temporary bias of zeros for one forward pass; the network is left
    unchanged. If that pass fails because a module insists on having no bias, the result is empty.
    """
    paths = {layer.weight: layer.name for layer in layers}
    modules = {
        weight: model.get_submodule(path)
        for weight, path in paths.items()
        if weight == f"{path}.weight" and isinstance(model.get_submodule(path), LAYER_MODULES)
    }
    mode = _BiasMode(modules)
    try:
        with _temporary_biases(modules.values()), whole_operators(), mode:
            run(model, inputs)
    except Exception:
        return frozenset()
    return frozenset(modules.keys() - mode.without_own_bias)


@contextmanager
def _temporary_biases(modules: Iterable[Any]) -> Iterator[None]:
    bare = [module for module in modules if module.bias is None]
    try:
        for module in bare:
            weight: Tensor = module.weight
            _, outputs = channels(module)
            zeros = torch.zeros(outputs, dtype=weight.dtype, device=weight.device)
            module.bias = nn.Parameter(zeros, requires_grad=False)
        yield
    finally:
        for module in bare:
            module.bias = None
