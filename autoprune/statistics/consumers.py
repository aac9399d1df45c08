"""Hooks that observe the inputs of every layer while the network runs.

A pruned unit is one that its consumers no longer read. The importance of a group's units is
therefore measured at the inputs of its consumers: behind BN and activation, and independently of
which layers produce the channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.structure.layers import LAYER_KINDS

Apply: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(input, weight) → the layer's output, with its other arguments unchanged."""


class LayerMode(TorchFunctionMode):
    """Intercepts every layer of a forward pass: its input before, its output after the call.

    Layers are recognised by their weights, so that functional calls are intercepted, too.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        known = structure.layer_of_weight
        self._layers = {
            id(tensor): known[name] for name, tensor in model.named_parameters() if name in known
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Intercept one call."""
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in LAYER_KINDS:
            source = args[0] if args else kwargs.pop("input")
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            layer = self._layers.get(id(weight))
            if layer is None:
                return func(source, *args[1:], **kwargs)
            source = self.visit(layer, source)
            out = func(source, *args[1:], **kwargs)
            rest = {name: value for name, value in kwargs.items() if name != "weight"}
            return self.passed(layer, source, out, lambda x, w: func(x, w, *args[2:], **rest))
        return func(*args, **kwargs)

    @abstractmethod
    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Return the input that the layer reads: `source`, or a tensor of equal values."""

    def passed(self, layer: LayerSpec, source: Tensor, out: Tensor, apply: Apply) -> Tensor:
        """Return the output of a layer: `out`, or a tensor of equal values.

        Args:
            layer: the layer.
            source: its input.
            out: its output.
            apply: the same operation for other inputs and weights.
        """
        return out


def by_channel(
    layer: LayerSpec, source: Shaped[Tensor, " ..."], samples: int
) -> Shaped[Tensor, "{samples} positions channels"] | None:
    """Return a layer's input or output by sample, position and channel.

    Args:
        layer: the layer.
        source: its input or output, in the layout of the network.
        samples: number of samples in the batch.

    Returns:
        None where the first dimension cannot be split by samples.
    """
    last = source.movedim(1, -1) if layer.kernel_size else source
    if len(source) % samples:
        return None
    # Windows or tokens folded into the batch dimension are positions of their sample.
    return last.reshape(samples, -1, last.shape[-1])


def by_input(
    layer: LayerSpec, source: Shaped[Tensor, " ..."], samples: int
) -> Shaped[Tensor, "{samples} positions inputs"] | None:
    """Return a layer's input by sample, position and entry of its weight's input dimension.

    These are its channels, unless each of its groups loses the same ones: then every group is a
    position of its own. Arguments and result are otherwise those of `by_channel`.
    """
    found = by_channel(layer, source, samples)
    if found is None or not layer.across:
        return found
    return found.reshape(samples, -1, found.shape[-1] // layer.groups)


def unit_sums(
    group: ChannelGroup, values: Callable[[str], Float[Tensor, "*batch channels"] | None]
) -> list[Float[Tensor, "*batch {group.size}"]]:
    """Return values of a group's units, summed over the entries of each, per consumer.

    Args:
        group: the group.
        values: maps a consumer's weight name to values of its input channels; None if unknown.
    """
    found = []
    for consumer in group.consumers:
        channels = values(consumer.tensor)
        if channels is not None:
            positions = torch.from_numpy(consumer.positions).to(channels.device)
            found.append(channels[..., positions].sum(-1))
    return found


def batch_within(structure: Structure, limit: int, memory: int) -> int:
    """Return the batch size at which all layers' outputs fit into memory.

    Args:
        structure: structure of the network.
        limit: largest batch size.
        memory: bytes for the activations.
    """
    each = sum(
        layer.positions * structure.shapes[layer.weight][0] * structure.itemsizes[layer.weight]
        for layer in structure.layers
    )
    # BN and activation function keep a copy each.
    return int(min(limit, max(1, memory // max(1, 3 * each))))
