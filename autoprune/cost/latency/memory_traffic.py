"""The memory that operators read and write, which no count of MACs contains."""

from __future__ import annotations

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.cost.memory import activation_sizes
from autoprune.structure.groups import Structure

MEGA = 1e6


class MemoryTraffic:
    """Megabytes (10^6 bytes) of activations that operators read and write, for any widths."""

    def __init__(self, structure: Structure, batch: int) -> None:
        """Find out which operators read and write which activations.

        Args:
            structure: The structure of the network.
            batch: The samples per run.
        """
        rows = {layer.weight: row for row, layer in enumerate(structure.layers)}
        moves = np.zeros((len(rows) + 1, len(structure.activations)))
        for operator in structure.operators:
            own = [rows[name] for name in operator.tensors if name in rows]
            for row in own or [len(rows)]:
                np.add.at(moves[row], [*operator.reads, *operator.writes], batch / MEGA)
        self._moved = activation_sizes(structure).summed(moves)

    def at(self, widths: Widths) -> tuple[Floats, float]:
        """Return the traffic of every layer, (layers,), and that of all other operators."""
        found = self._moved.at(widths)
        return found[:-1], float(found[-1])
