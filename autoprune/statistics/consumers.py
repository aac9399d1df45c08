"""What enters every layer, seen while the network runs.

A unit that is cut is a unit that its consumers no longer read. What a group's units are worth is
therefore looked at in the inputs of its consumers: behind BN and activation, and wherever the
channels come from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.structure.layers import LAYER_KINDS

Apply: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(input, weight) → what the layer makes of them, its other arguments as they were."""


class LayerMode(TorchFunctionMode):
    """Runs under a forward pass and is shown every layer's input just before it is read.

    Weights that are used without calling their module are seen, too.
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
        """See one call."""
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
        """Return what the layer reads: the source, or a stand-in of the same values."""

    def passed(self, layer: LayerSpec, source: Tensor, out: Tensor, apply: Apply) -> Tensor:
        """Return what came of a layer's input, or a stand-in; `apply` does the same to others."""
        return out


def by_channel(layer: LayerSpec, source: Tensor, samples: int) -> Tensor | None:
    """Return a layer's input as (samples, positions, channels).

    None where it is not laid out by samples: then nothing can be said of a single one.
    """
    last = source.movedim(1, -1) if layer.kernel_size else source
    if len(source) % samples:
        return None
    # Windows or tokens folded into the batch are positions of their sample.
    return last.reshape(samples, -1, last.shape[-1])


def unit_sums(group: ChannelGroup, values: Callable[[str], Tensor | None]) -> list[Tensor]:
    """Return values of a group's units at each of its consumers, (…, units).

    Args:
        group: the units.
        values: consumer's weight name → values of its input channels, (…, channels), or None.
    """
    found = []
    for consumer in group.consumers:
        channels = values(consumer.tensor)
        if channels is not None:
            positions = torch.from_numpy(consumer.positions).to(channels.device)
            found.append(channels[..., positions].sum(-1))
    return found


def batch_within(structure: Structure, limit: int, memory: int) -> int:
    """Return how many samples may run at once if every layer's output is kept in memory."""
    each = sum(
        layer.positions * structure.shapes[layer.weight][0] * structure.itemsizes[layer.weight]
        for layer in structure.layers
    )
    # BN and activation keep as much again each.
    return int(min(limit, max(1, memory // max(1, 3 * each))))
