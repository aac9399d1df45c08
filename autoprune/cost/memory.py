"""Predicts the memory of one forward pass: the weights, and the peak of live activations.

The batch size is 1, data types are the model's own, and operators run in the order of the network.
An activation is live from the operator that makes it to the last one that reads it (the inputs of
the network from the start, its outputs to the end); views and in-place operators take no memory.
Memory that kernels allocate themselves, or that Python keeps longer than needed, does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autoprune.core.arrays import Floats
from autoprune.core.policy import SomeWidths, Widths
from autoprune.cost.counts import TensorSizes
from autoprune.cost.model import CostModel
from autoprune.cost.presence import Presence
from autoprune.structure.groups import Structure

ACTIVATIONS = "activations (peak)"


class MemoryCost(CostModel):
    """Predicts the bytes of the weights and of the peak of live activations."""

    name = title = "memory"
    unit = "bytes"
    budget_units: ClassVar[Mapping[str, float]] = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    result_key = "memory_bytes"

    def __init__(self, structure: Structure, adds_bias: bool = True) -> None:
        self._weights = TensorSizes(structure, structure.itemsizes, adds_bias)
        live = activation_sizes(structure).summed(_live(structure))
        part = np.array(_branch_of(structure), dtype=float)
        # Most operators see the same live activations as others: duplicates are dropped.
        _, first = np.unique(
            np.column_stack([part, live.dense, live.per_unit, live.per_pair]),
            axis=0,
            return_index=True,
        )
        self._live = live.summed(np.eye(len(part))[first])
        self._presence = Presence(
            structure, part[first].tolist(), lambda branch: [structure.branches.index(branch)]
        )

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the bytes of the weights of every module, and of the peak of activations."""
        return {**self._weights.by_module(widths), ACTIVATIONS: self.peak(widths)}

    def total(self, widths: Widths) -> float:
        """Return the bytes of the whole network."""
        return self._weights.total(widths) + self.peak(widths)

    def totals(self, widths: Sequence[Widths]) -> Floats:
        """Return the bytes of several networks, (networks,)."""
        return self._weights.totals(widths) + self._peaks(widths)

    def peak(self, widths: Widths) -> float:
        """Return the most bytes of activations that are live at once."""
        return float(self._peaks(widths))

    def _peaks(self, widths: SomeWidths) -> Floats:
        peaks: Floats = (self._live.at(widths) * self._presence.at(widths)).max(axis=-1)
        return peaks


def _branch_of(structure: Structure) -> list[int]:
    """Return the place of the branch that each operator belongs to, -1 for none."""
    places = {
        number: place
        for place, branch in enumerate(structure.branches)
        for number in branch.operators
    }
    return [places.get(operator.number, -1) for operator in structure.operators]


@dataclass(frozen=True, eq=False)
class Sizes:
    """Bytes as functions of the widths.

    Attributes:
        dense: The bytes in the dense network, (sizes,).
        per_unit: The bytes that each unit of each group takes, (sizes, groups).
        pairs: Places of two groups whose units share bytes: a head and a width, (pairs, 2).
        per_pair: The bytes that a unit of each takes together, (sizes, pairs).
        widths: The dense widths, (groups,).
    """

    dense: Floats
    per_unit: Floats
    pairs: npt.NDArray[np.int64]
    per_pair: Floats
    widths: Floats

    def at(self, widths: SomeWidths) -> Floats:
        """Return the bytes at some widths, (…, sizes)."""
        gone = self.widths - np.asarray(widths, dtype=float)
        found: Floats = self.dense - gone @ self.per_unit.T
        if len(self.pairs):
            first, second = self.pairs.T
            found = found + (gone[..., first] * gone[..., second]) @ self.per_pair.T
        return found

    def summed(self, weights: Floats) -> Sizes:
        """Return sums of these bytes, weighted by (sums, sizes)."""
        parts = (weights @ part for part in (self.dense, self.per_unit, self.per_pair))
        dense, per_unit, per_pair = parts
        return Sizes(dense, per_unit, self.pairs, per_pair, self.widths)


def activation_sizes(structure: Structure) -> Sizes:
    """Return the bytes of every activation.

    Groups that were frozen since the trace stay whole.
    """
    index, activations = structure.index, structure.activations
    known = [
        {
            (index[a], index[b]): size
            for (a, b), size in one.per_pair.items()
            if {a, b} <= set(index)
        }
        for one in activations
    ]
    pairs = sorted({pair for own in known for pair in own})
    per_unit = np.zeros((len(activations), len(structure.groups)))
    for row, one in enumerate(activations):
        for name, size in one.per_unit.items():
            if name in index:
                per_unit[row, index[name]] = size
    return Sizes(
        dense=np.array([one.size for one in activations], dtype=float),
        per_unit=per_unit,
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
        per_pair=np.array([[own.get(pair, 0.0) for pair in pairs] for own in known]).reshape(
            len(activations), len(pairs)
        ),
        widths=np.array(structure.dense_widths, dtype=float),
    )


def _live(structure: Structure) -> Floats:
    """Return which activations are live while each operator runs, (operators, activations)."""
    first = np.zeros(len(structure.activations), dtype=int)
    last = np.full(len(structure.activations), -1)
    for number, operator in enumerate(structure.operators):
        for place in operator.writes:
            if last[place] < 0:
                first[place] = number
        last[[*operator.reads, *operator.writes]] = number
    moments = np.arange(len(structure.operators))[:, None]
    live: Floats = ((first <= moments) & (moments <= last)).astype(float)
    return live
