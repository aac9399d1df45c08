"""Layers whose own forward pass computes their weight, made plain layers of PyTorch.

Weight-standardised convolutions and adapters are subclasses of a PyTorch layer that compute a
weight from their parameters at every call. Such a module is run once on random inputs: if it does
what its PyTorch class does with the weight that it computed, it can become that class.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.structure.layers import LAYER_KINDS, LayerKind
from autoprune.structure.surgery import deep_copy

# Sides of the images on which a layer is compared, as multiples of what its kernel covers: padding
# that depends on the size of an image would differ on one of them.
SIDES = (2, 3)
TOLERANCE = 1e-5


def plain_layer(module: nn.Module) -> nn.Module | None:
    """Return a plain layer with the weight that a module computes.

    None if it computes none, depends on more than its own tensors, or does something else besides.
    """
    kind = next((one for one in LAYER_KINDS.values() if isinstance(module, one.module)), None)
    if kind is None or type(module).forward is kind.module.forward:
        return None
    with suppress(Exception):  # whatever such a module wants, it is left as it is
        with torch.no_grad():
            return _plain(module, kind)
    return None


def become(module: nn.Module, plain: nn.Module) -> None:
    """Make a module a plain layer, in place."""
    module.__class__ = plain.__class__
    module.__dict__.clear()
    module.__dict__.update(plain.__dict__)


def _plain(module: nn.Module, kind: LayerKind) -> nn.Module | None:
    copied: Any = deep_copy(module).eval()
    inputs = [_random_input(copied, kind, side) for side in SIDES]
    used = _Used(kind)
    with used:
        outputs = [copied(one) for one in inputs]
    weight, bias = used.tensors[0]
    if weight is copied.weight and bias is copied.bias:
        return None
    plain = _with_tensors(copied, kind, weight, bias)
    pairs = zip(map(plain, inputs), outputs, strict=True)
    return plain.train(module.training) if all(_equal(*pair) for pair in pairs) else None


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * float(other.abs().max()))


class _Used(TorchFunctionMode):
    """Notes the weight and bias with which a layer's operator is called."""

    def __init__(self, kind: LayerKind) -> None:
        super().__init__()
        self._function = getattr(F, kind.operator)
        self.tensors: list[tuple[Tensor, Tensor | None]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is self._function:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
            self.tensors.append((given["weight"], given.get("bias")))
        return func(*args, **(kwargs or {}))


def _random_input(layer: Any, kind: LayerKind, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    if not kind.rank:
        shape = [2, layer.in_features]
    else:
        covered = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
        shape = [1, layer.in_channels, *(side * ((k - 1) * d + s) for k, d, s in covered)]
    return torch.randn(shape, generator=generator).to(layer.weight)


def _with_tensors(layer: Any, kind: LayerKind, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a layer of PyTorch's class with the sizes of another and tensors of its own."""
    plain: Any = kind.module(*[1] * (3 if kind.rank else 2))
    plain.__dict__.update(
        {name: value for name, value in vars(layer).items() if name in vars(plain)}
    )
    plain._parameters, plain._buffers, plain._modules = {}, {}, {}
    is_trained = layer.bias is not None and layer.bias.requires_grad
    plain.weight = nn.Parameter(weight.detach().clone())
    plain.bias = None if bias is None else nn.Parameter(bias.detach().clone(), is_trained)
    return cast(nn.Module, plain)
