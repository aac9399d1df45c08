"""Memory of one forward pass: weights, and the most activations that are alive at once.

Batch 1, the model's own data types, operators in the order in which the network runs them. An
activation is alive from the operator that makes it to the last one that reads it (the network's
inputs from the start, its outputs to the end); views and work in place take no memory of their own.
What kernels allocate for themselves, and what Python keeps longer than it is needed, is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.cost.counts import TensorSizes
from autoprune.cost.model import CostModel
from autoprune.structure.groups import Structure

ACTIVATIONS = "activations (peak)"


class MemoryCost(CostModel):
    """Bytes of the weights and of the peak of live activations."""

    name = title = "memory"
    unit = "bytes"
    budget_units: ClassVar[Mapping[str, float]] = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
    result_key = "memory_bytes"

    def __init__(self, structure: Structure, adds_bias: bool = True) -> None:
        self._weights = TensorSizes(structure, structure.itemsizes, adds_bias)
        activations = ActivationSizes(structure)
        alive = _alive(structure)
        # Most moments hold the same as others: each is looked at once.
        rows = np.unique(
            np.column_stack([alive @ activations.dense, alive @ activations.per_unit]), axis=0
        )
        self._dense, self._per_unit = rows[:, 0], rows[:, 1:]
        self._sizes = np.array(structure.dense_widths, dtype=float)

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the bytes of every module's weights, and the activations' peak in one row."""
        return {**self._weights.by_module(widths), ACTIVATIONS: self.peak(widths)}

    def total(self, widths: Widths) -> float:
        """Return the bytes of the whole network."""
        return self._weights.total(widths) + self.peak(widths)

    def peak(self, widths: Widths) -> float:
        """Return the bytes of the activations alive at once, at most."""
        gone = self._sizes - np.asarray(widths, dtype=float)
        return float((self._dense - self._per_unit @ gone).max())


class ActivationSizes:
    """Bytes of every activation as linear functions of the widths.

    Attributes:
        dense: bytes in the dense network, (activations,).
        per_unit: bytes that go with each unit of each group, (activations, groups).
    """

    def __init__(self, structure: Structure) -> None:
        self.dense: Floats = np.array([one.size for one in structure.activations], dtype=float)
        self.per_unit: Floats = np.zeros((len(structure.activations), len(structure.groups)))
        for row, one in enumerate(structure.activations):
            for name, size in one.per_unit.items():
                if name in structure.index:  # a group that is frozen now stays whole
                    self.per_unit[row, structure.index[name]] = size


def _alive(structure: Structure) -> Floats:
    """Return which activations are alive while each operator runs, (operators, activations)."""
    first = np.zeros(len(structure.activations), dtype=int)
    last = np.full(len(structure.activations), -1)
    for number, operator in enumerate(structure.operators):
        for place in operator.writes:
            if last[place] < 0:
                first[place] = number
        last[[*operator.reads, *operator.writes]] = number
    moments = np.arange(len(structure.operators))[:, None]
    alive: Floats = ((first <= moments) & (moments <= last)).astype(float)
    return alive
