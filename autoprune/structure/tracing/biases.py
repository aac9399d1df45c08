"""Which layers add the bias of their module, or would if it had one.

A network may use a module's weight alone (`F.conv2d(x, module.weight)`): a bias that is given to
the module later, by a refit or by folding its BN, would be left out silently.
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


class _Watch(OperatorMode):
    """Notes the weights that an operator uses with another bias than that of their module."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._places = {id(module.weight): (name, module) for name, module in modules.items()}
        self.apart: set[str] = set()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if name in LAYER_KINDS:
            bias = self.origin(Call(name, func, args, kwargs, out).arg(2, "bias"))
            place = self._places.get(id(self.origin(args[1])))
            if place is not None and bias is not place[1].bias:
                self.apart.add(place[0])
        return out


def bias_takers(model: nn.Module, layers: Iterable[LayerSpec], inputs: Inputs) -> frozenset[str]:
    """Return the weights of the plain layers that add their module's bias at every call.

    Modules without one are lent zeros for a forward pass; the network is as it was afterwards.
    Where that pass fails, since a module insists on having none, nothing is known of any layer.
    """
    places = {layer.weight: layer.name for layer in layers}
    modules = {
        weight: model.get_submodule(path)
        for weight, path in places.items()
        if weight == f"{path}.weight" and isinstance(model.get_submodule(path), LAYER_MODULES)
    }
    watch = _Watch(modules)
    try:
        with _lent_biases(modules.values()), whole_operators(), watch:
            run(model, inputs)
    except Exception:
        return frozenset()
    return frozenset(modules.keys() - watch.apart)


@contextmanager
def _lent_biases(modules: Iterable[Any]) -> Iterator[None]:
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
