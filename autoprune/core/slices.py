"""Which entries of a tensor's dimension belong to the units of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.records import WIDEST, Extent, Natural, Record, Whole

Role: TypeAlias = Literal["producer", "consumer", "carried"]
"""A slice makes the group's channels, reads them, or goes along (BN, bias, depthwise)."""


class Grid(Record, frozen=True):
    """Positions that are evenly spaced, in five numbers: they may stand for millions."""

    start: Natural
    unit_step: Whole
    units: Extent
    entry_step: Whole = 1
    entries: Extent = 1

    @classmethod
    def along(cls, positions: npt.NDArray[np.int64]) -> Grid:
        """Return the grid that the first row and column of positions begin."""
        start = int(positions[0, 0])
        units, entries = positions.shape
        unit_step = int(positions[1, 0]) - start if units > 1 else 1
        entry_step = int(positions[0, 1]) - start if entries > 1 else 1
        return cls(start, unit_step, units, entry_step, entries)

    def check(self) -> None:
        """Refuse positions that no dimension has.

        Raises:
            ValueError: there are too many, or some are below zero.
        """
        along, across = self.unit_step * (self.units - 1), self.entry_step * (self.entries - 1)
        if self.start + min(0, along) + min(0, across) < 0:
            raise ValueError("positions below zero")
        if self.size > WIDEST:
            raise ValueError(f"{self.size} positions are more than a dimension has")

    @property
    def size(self) -> int:
        """How many positions there are."""
        return self.units * self.entries

    def positions(self) -> npt.NDArray[np.int64]:
        """Return them, (units, entries)."""
        column = self.start + self.unit_step * np.arange(self.units, dtype=np.int64)[:, None]
        return column + self.entry_step * np.arange(self.entries, dtype=np.int64)[None, :]

    def to_json(self) -> dict[str, int]:
        """Return JSON data: the form that fingerprints are made of."""
        line = {"start": self.start, "unit_step": self.unit_step, "units": self.units}
        along = {"entry_step": self.entry_step, "entries": self.entries}
        return line | along if self.entries > 1 else line


@dataclass(frozen=True, eq=False)
class Slice:
    """The entries of one dimension of one tensor that belong to a group's units.

    `positions` has shape (units, entries per unit).
    """

    tensor: str
    dim: int
    role: Role
    positions: npt.NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; positions on a regular grid take few numbers."""
        grid = Grid.along(self.positions)
        is_regular = np.array_equal(grid.positions(), self.positions)
        return {
            "tensor": self.tensor,
            "dim": self.dim,
            "role": self.role,
            "positions": grid.to_json() if is_regular else self.positions.tolist(),
        }
