"""Layers whose own forward pass computes their weight, made plain layers of PyTorch.

Weight-standardised convolutions and adapters are subclasses of a PyTorch layer that compute a
weight from their parameters at every call. Such a module is run once on random inputs: if it does
what its PyTorch class does with the weight that it computed, with or without TensorFlow's padding,
it can become that class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.structure.layers import LAYER_KINDS, LayerKind
from autoprune.structure.surgery import deep_copy

# Sides of the images on which a layer is compared, in windows of its kernel; one more pixel where
# that is odd: padding that depends on the size of an image differs.
SIDES = (2, 3)
# Sizes of their values: a layer may do something else to small or to large ones.
SCALES = (1e-3, 1.0, 1e3)
TOLERANCE = 1e-5


class SameConv2d(nn.Conv2d):
    """A convolution that pads images as TensorFlow does: a window starts at every stride."""

    def forward(self, input: Float[Tensor, "batch c_in h w"]) -> Float[Tensor, "batch c_out h2 w2"]:
        """Pad images with zeros, the odd one behind, and convolve them."""
        amounts: list[int] = []
        for dim in (-1, -2):
            size, stride = input.shape[dim], self.stride[dim]
            window = (self.kernel_size[dim] - 1) * self.dilation[dim] + 1
            missing = max((-(-size // stride) - 1) * stride + window - size, 0)
            amounts += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, amounts))


def plain_layer(module: nn.Module) -> nn.Module | None:
    """Return a plain layer with the weight that a module computes.

    None if it computes none, depends on more than its own tensors, or does something else besides.
    """
    kind = next((one for one in LAYER_KINDS.values() if isinstance(module, one.module)), None)
    if kind is None or type(module).forward is kind.module.forward:
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None  # it may be called with more than its input
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
    inputs = [scale * _random_input(copied, kind, side) for side in SIDES for scale in SCALES]
    used = _Used(kind)
    with used:
        outputs = [copied(one) for one in inputs]
    weight, bias = used.tensors[0]
    if weight is copied.weight and bias is copied.bias:
        return None
    for layer_class in (kind.module, SameConv2d):
        plain = _with_tensors(copied, layer_class, weight, bias)
        pairs = zip(map(plain, inputs), outputs, strict=True)
        if isinstance(plain, kind.module) and all(_equal(*pair) for pair in pairs):
            return plain.train(module.training)
    return None


def _equal(one: Tensor, other: Tensor) -> bool:
    size = TOLERANCE * float(other.abs().max())
    return one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=size)


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
        sides = (side * ((k - 1) * d + s) + side % 2 for k, d, s in covered)
        shape = [1, layer.in_channels, *sides]
    return torch.randn(shape, generator=generator).to(layer.weight)


def _with_tensors(
    layer: Any, layer_class: type[nn.Module], weight: Tensor, bias: Tensor | None
) -> nn.Module:
    """Return a layer of another class with the sizes of this one and tensors of its own."""
    plain: Any = layer_class(*[1] * (weight.dim() if weight.dim() == 2 else 3))
    plain.__dict__.update(
        {name: value for name, value in vars(layer).items() if name in vars(plain)}
    )
    plain._parameters, plain._buffers, plain._modules = {}, {}, {}
    is_trained = layer.bias is not None and layer.bias.requires_grad
    plain.weight = nn.Parameter(weight.detach().clone())
    plain.bias = None if bias is None else nn.Parameter(bias.detach().clone(), is_trained)
    return cast(nn.Module, plain)
