"""What can be compared of a network and one cut from it: what its layers read and write.

Outputs alone can hide a fault: class scores beside boxes in pixels, a sigmoid far from zero, an
argmax. Every layer is compared, channel by channel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.structure.groups import LayerSpec
from autoprune.structure.surgery import Keep
from autoprune.structure.tracing.operators import OperatorMode

# Positions (pixels, tokens) of a layer that are compared; outputs are compared whole.
POSITIONS = 128
# Share of whole numbers (labels, places in an order) that ties may flip.
FLIPPED = 0.01


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may differ that ought to be equal.

    Attributes:
        relative: as a share of the largest value of their channel.
        floor: as a share of the largest value of the tensor.
    """

    relative: float
    floor: float

    def agree(self, a: Tensor, b: Tensor, dims: Sequence[int]) -> bool:
        """Say whether two tensors of one shape are equal, by their slices along some dimensions."""
        if torch.equal(a, b):
            return True
        if not (a.is_floating_point() or a.is_complex()):
            return float((a != b).float().mean()) <= FLIPPED
        size, gap = a.abs(), (a - b).abs()
        alike = (a == b) | (a.isnan() & b.isnan())
        limit = torch.full_like(size, torch.inf)
        for dim in dims:
            others = [d for d in range(a.dim()) if d != dim]
            limit = torch.minimum(limit, size.amax(others, keepdim=True) if others else size)
        finite = size[size.isfinite()]
        largest = finite.max() if finite.numel() else torch.zeros(())
        limit = self.relative * torch.minimum(limit, largest) + self.floor * largest
        return bool((alike | (gap <= limit)).all())


@dataclass
class Observation:
    """What one run of a network showed.

    Attributes:
        layers: by weight and call, a sample of what the layer reads and writes, each (channels,
            positions).
        outputs: what the network returned.
    """

    layers: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)


class Observer(OperatorMode):
    """Runs under a forward pass and takes down what its layers read and write."""

    def __init__(self, names: Mapping[int, str], layers: Mapping[str, LayerSpec]) -> None:
        """Take the names of tensors by `id`, and the layers by the names of their weights."""
        super().__init__()
        self.seen = Observation()
        self._names = names
        self._layers = layers
        self._calls: Counter[str] = Counter()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator; note it if it is a layer."""
        out = func(*args, **kwargs)
        weight = self._names.get(id(args[1]), "") if len(args) > 1 else ""
        layer = self._layers.get(weight)
        if layer is not None and layer.kind == name:
            rank = args[1].dim() - 2
            self.seen.layers[weight, self._calls[weight]] = _rows(args[0], rank), _rows(out, rank)
            self._calls[weight] += 1
        return out


def _rows(tensor: Tensor, rank: int) -> Tensor:
    """Return (channels, positions) of a tensor with so many dimensions behind its channels."""
    rows = tensor.movedim(tensor.dim() - 1 - rank, 0)
    places: tuple[slice | Tensor, ...] = (slice(None), *_spread(rows.shape[1:]))
    return rows[places]


@lru_cache
def _spread(space: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return positions that lie evenly in a space, by dimension: flattening would copy it all."""
    count = math.prod(space)
    chosen = np.linspace(0, count - 1, min(count, POSITIONS)).astype(int)
    return tuple(map(torch.from_numpy, np.unravel_index(chosen, space)))


def disagreement(
    dense: Observation,
    small: Observation,
    keep: Keep,
    layers: Mapping[str, LayerSpec],
    tolerance: Tolerance,
) -> str | None:
    """Say where a cut network is not the dense one whose consumers ignore what was cut."""
    if dense.layers.keys() != small.layers.keys():
        return "other layers run"
    for key, (source, out) in dense.layers.items():
        layer = layers[key[0]]
        kept = keep.get(layer.weight, {})
        read, written = small.layers[key]
        # Of a grouped convolution the weight does not say which channels it reads.
        if layer.groups == 1 and not _equal(source, read, kept.get(layer.in_dim), tolerance):
            return f"{layer.name} reads other values"
        if not _equal(out, written, kept.get(layer.out_dim), tolerance):
            return f"{layer.name} gives other values"
    for a, b in zip(dense.outputs, small.outputs, strict=True):
        if a.shape != b.shape:
            return f"outputs change from {tuple(a.shape)} to {tuple(b.shape)}"
        if not tolerance.agree(a, b, range(min(1, a.dim() - 1), a.dim())):
            return "outputs of the cut network are wrong"
    return None


def _equal(dense: Tensor, small: Tensor, kept: Tensor | None, tolerance: Tolerance) -> bool:
    dense = dense if kept is None else dense[kept]
    return dense.shape == small.shape and tolerance.agree(dense, small, [0])
