"""The memory that operators read and write, which no count of MACs contains."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import SomeWidths
from autoprune.cost.memory import Sizes, activation_sizes
from autoprune.cost.presence import Presence
from autoprune.structure.forward_pass import Operator
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
        sizes = activation_sizes(structure)

        def moved(operators: Iterable[Operator]) -> Sizes:
            """Return what operators move, by layer."""
            moves = np.zeros((len(rows) + 1, len(structure.activations)))
            for operator in operators:
                own = [rows[name] for name in operator.tensors if name in rows]
                for row in own or [len(rows)]:
                    np.add.at(moves[row], [*operator.reads, *operator.writes], batch / MEGA)
            return sizes.summed(moves)

        self._moved = moved(structure.operators)
        self._inside = [
            moved(one for one in structure.operators if one.number in branch.operators)
            for branch in structure.branches
        ]
        self._presence = Presence(structure, structure.branches, lambda branch: [branch])

    def at(self, widths: SomeWidths) -> tuple[Floats, Floats]:
        """Return the traffic of every layer, (…, layers), and that of all other operators, (…)."""
        found = self._moved.at(widths)
        if self._inside:
            gone = self._presence.gone(widths)
            for place in np.flatnonzero(gone.any(axis=tuple(range(gone.ndim - 1)))):
                found = found - gone[..., place, None] * self._inside[place].at(widths)
        return found[..., :-1], found[..., -1]
