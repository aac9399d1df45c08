"""Comparison of a cut network with the dense one: inputs and outputs of every layer.

The dense network reads nothing of the cut channels: the weights of their consumers are zero, and
normalisations and products of activations run on the other channels (`mixed`).

Comparing the networks' outputs alone can miss a fault: class scores next to boxes in pixels, a
saturated sigmoid, an argmax. So every layer is compared, channel by channel.
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
from autoprune.structure.mixed import Columns, run_on
from autoprune.structure.surgery import Keep
from autoprune.structure.tracing.operators import OperatorMode
from autoprune.structure.tracing.residuals import without_term

# Positions (pixels, tokens) compared per layer; the network's outputs are compared in full.
POSITIONS = 128
# Share of integers (labels, ranks) that may differ, since rounding breaks ties differently.
FLIPPED = 0.01


@dataclass(frozen=True)
class Tolerance:
    """How far values that should be equal may differ.

    Attributes:
        relative: as a share of the largest value of their channel.
        floor: as a share of the largest value of the tensor.
    """

    relative: float
    floor: float

    def agree(self, a: Tensor, b: Tensor, dims: Sequence[int]) -> bool:
        """Say whether two tensors of the same shape are equal within the tolerance.

        Args:
            a: one tensor.
            b: the other one.
            dims: dimensions along which every slice has its own scale.
        """
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
class Recording:
    """What one forward pass read and wrote.

    Attributes:
        layers: a sample of each layer's input and output, both (channels, positions), by weight
            name and number of the call.
        outputs: the tensors that the network returned.
    """

    layers: dict[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)


class RecordingMode(OperatorMode):
    """Records the inputs and outputs of layers during a forward pass."""

    def __init__(
        self,
        names: Mapping[int, str],
        layers: Mapping[str, LayerSpec],
        skipped: Mapping[int, int] | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Prepare a recording.

        Args:
            names: tensor names by `id`.
            layers: layers by the name of their weight.
            skipped: by the number of a sum (`Branch.addition`), the place of the term that it is
                made without.
            columns: operators that run on some of their channels only.
        """
        super().__init__()
        self._columns = columns or {}
        self._operator_calls: Counter[str] = Counter()
        self.recording = Recording()
        self._skipped = skipped or {}
        self._names = names
        self._layers = layers
        self._calls: Counter[str] = Counter()

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator and record it if it is a layer."""
        place = name, self._operator_calls[name]
        self._operator_calls[name] += 1
        if name == "add" and place[1] in self._skipped:
            return without_term(func, args, self._skipped[place[1]])
        if place in self._columns:
            return run_on(*self._columns[place], func, args, kwargs)
        out = func(*args, **kwargs)
        weight = self._names.get(id(args[1]), "") if len(args) > 1 else ""
        layer = self._layers.get(weight)
        if layer is not None and layer.kind == name:
            rank = args[1].dim() - 2
            self.recording.layers[weight, self._calls[weight]] = (
                _rows(args[0], rank),
                _rows(out, rank),
            )
            self._calls[weight] += 1
        return out


def _rows(tensor: Tensor, rank: int) -> Tensor:
    """Sample (channels, positions) of a tensor with `rank` dimensions after the channels."""
    rows = tensor.movedim(tensor.dim() - 1 - rank, 0)
    places: tuple[slice | Tensor, ...] = (slice(None), *_even_positions(rows.shape[1:]))
    return rows[places]


@lru_cache
def _even_positions(space: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return evenly spaced positions, by dimension; flattening the tensor would copy all of it."""
    count = math.prod(space)
    chosen = np.linspace(0, count - 1, min(count, POSITIONS)).astype(int)
    return tuple(map(torch.from_numpy, np.unravel_index(chosen, space)))


def find_difference(
    dense: Recording,
    small: Recording,
    keep: Keep,
    layers: Mapping[str, LayerSpec],
    tolerance: Tolerance,
) -> str | None:
    """Describe where the cut network differs from the dense one with masked consumers, if it does.

    Args:
        dense: recorded from the dense network whose consumers ignore the cut channels.
        small: recorded from the cut network.
        keep: entries of the tensors that the cut network kept.
        layers: by the name of their weight.
        tolerance: for values that should be equal.
    """
    if dense.layers.keys() != small.layers.keys():
        return "other layers run"
    for key, (source, out) in dense.layers.items():
        layer = layers[key[0]]
        kept = keep.get(layer.weight, {})
        read, written = small.layers[key]
        # The weight of a grouped convolution does not tell which channels it reads.
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
