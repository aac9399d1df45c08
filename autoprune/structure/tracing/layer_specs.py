"""Specifications of layers, from their operator calls and modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autoprune.structure.groups import LayerSpec
from autoprune.structure.layers import LAYER_KINDS, LAYER_MODULES
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.flow import GIVEN


def first_call(call: Call, weight: str, bias: str | None, positions: int, groups: int) -> LayerSpec:
    """Describe a layer by its first call; what follows the layer is not known yet.

    Args:
        call: the operator call.
        weight: name of its weight.
        bias: name of its bias; None if it has none.
        positions: positions at which it multiplies its weight.
        groups: convolution groups.
    """
    kind = LAYER_KINDS[call.name]
    rank = kind.rank

    def each(index: int, name: str, default: int) -> tuple[int, ...]:
        value = call.arg(index, name, default)
        value = [value] if isinstance(value, int) else list(value)
        return tuple(value * rank if len(value) == 1 else value)

    source, out = call.args[0], call.out
    path, _, leaf = weight.rpartition(".")
    kernel_size = tuple(call.args[1].shape[2:])
    dilation = each(7 if kind.is_transposed else 5, "dilation", 1) if rank else ()
    if call.arg(4, "padding") == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel_size, strict=True))
    elif call.arg(4, "padding") == "valid":
        padding = (0,) * rank
    else:
        padding = each(4, "padding", 0) if rank else ()
    return LayerSpec(
        name=path if leaf == "weight" else weight,
        kind=call.name,
        weight=weight,
        bias=bias,
        batchnorm=None,
        in_dim=kind.in_dim,
        positions=positions,
        calls=1,
        kernel_size=kernel_size,
        stride=each(3, "stride", 1) if rank else (),
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_shape=tuple(source.shape[1:]),
        output_shape=tuple(out.shape[1:]),
        takes_bias=False,
        refittable=False,
        number=GIVEN,
        shortcut=None,
        clamp=None,
    )


def multiplies_alone(layer: LayerSpec, reads: Mapping[str, int]) -> bool:
    """Say whether a product with a bias is all that a network does with two tensors.

    The packed projections of queries, keys and values are such a layer, which is no module.

    Args:
        layer: the layer.
        reads: how many operators read each tensor.
    """
    own = {reads.get(name) for name in (layer.weight, layer.bias) if name is not None}
    return layer.kind == "linear" and layer.bias is not None and own == {layer.calls}


def is_refittable(model: nn.Module, layer: LayerSpec) -> bool:
    """Say whether a layer's weights can be refitted by least squares (see `LayerSpec`)."""
    path, _, leaf = layer.weight.rpartition(".")
    module = model.get_submodule(path)
    if leaf != "weight" or not isinstance(module, LAYER_MODULES):
        return layer.takes_bias
    if layer.groups != 1:
        return False
    if isinstance(module.bias, Tensor) and not isinstance(module.bias, nn.Parameter):
        return False  # a buffer is not trained
    # Refitting reads patches of the operator's input with symmetric zero padding.
    is_even = any(size % 2 == 0 for size in layer.kernel_size)
    one_sided = is_even and getattr(module, "padding", 0) == "same"
    # The mean of the cut channels moves into a bias, or into the BN of a layer without one.
    shifts = layer.takes_bias or (module.bias is None and layer.batchnorm is not None)
    return shifts and not one_sided
