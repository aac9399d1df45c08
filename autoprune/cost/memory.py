"""Predicts the memory of one forward pass: the weights, and the peak of live activations.

The batch size is 1, data types are the model's own, and operators run in the order of the network.
An activation is live from the operator that makes it to the last one that reads it (the inputs of
the network from the start, its outputs to the end); views and in-place operators take no memory.
Memory that kernels allocate themselves, or that Python keeps longer than needed, does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
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
        activations = ActivationSizes(structure)
        live = _live(structure)
        part = _branch_of(structure)
        # Most operators see the same live activations as others: duplicates are dropped.
        rows = np.unique(
            np.column_stack([part, live @ activations.dense, live @ activations.per_unit]), axis=0
        )
        self._dense, self._per_unit = rows[:, 1], rows[:, 2:]
        self._presence = Presence(
            structure, rows[:, 0].tolist(), lambda branch: [structure.branches.index(branch)]
        )
        self._sizes = np.array(structure.dense_widths, dtype=float)

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the bytes of the weights of every module, and of the peak of activations."""
        return {**self._weights.by_module(widths), ACTIVATIONS: self.peak(widths)}

    def total(self, widths: Widths) -> float:
        """Return the bytes of the whole network."""
        return self._weights.total(widths) + self.peak(widths)

    def peak(self, widths: Widths) -> float:
        """Return the most bytes of activations that are live at once."""
        gone = self._sizes - np.asarray(widths, dtype=float)
        sizes = (self._dense - self._per_unit @ gone) * self._presence.at(widths)
        return float(sizes.max())


def _branch_of(structure: Structure) -> list[int]:
    """Return the place of the branch that each operator belongs to, -1 for none."""
    places = {
        number: place
        for place, branch in enumerate(structure.branches)
        for number in branch.operators
    }
    return [places.get(operator.number, -1) for operator in structure.operators]


class ActivationSizes:
    """The bytes of every activation as linear functions of the widths.

    Attributes:
        dense: The bytes in the dense network, (activations,).
        per_unit: The bytes that each unit of each group takes, (activations, groups).
    """

    def __init__(self, structure: Structure) -> None:
        self.dense: Floats = np.array([one.size for one in structure.activations], dtype=float)
        self.per_unit: Floats = np.zeros((len(structure.activations), len(structure.groups)))
        for row, one in enumerate(structure.activations):
            for name, size in one.per_unit.items():
                if name in structure.index:  # otherwise the group was frozen since, and stays whole
                    self.per_unit[row, structure.index[name]] = size


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
