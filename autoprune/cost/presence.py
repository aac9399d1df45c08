"""What is left of a network at some widths: residual branches may be gone as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from autoprune.core.arrays import Floats
from autoprune.core.policy import SomeWidths
from autoprune.structure.branches import Branch
from autoprune.structure.groups import Structure

Thing = TypeVar("Thing")


class Presence:
    """Tells which of some things of a network are there, for any widths."""

    def __init__(
        self,
        structure: Structure,
        things: Sequence[Thing],
        inside: Callable[[Branch], Collection[Thing]],
    ) -> None:
        """Find the branches that the things are part of.

        Args:
            structure: The structure of the network.
            things: Layers, tensors or operators.
            inside: Returns those of a branch.
        """
        groups = [structure.index[branch.group] for branch in structure.branches]
        self._groups = np.array(groups, dtype=int)
        parts = [frozenset(inside(branch)) for branch in structure.branches]
        self._inside = np.array([[one in part for one in things] for part in parts], dtype=bool)

    def at(self, widths: SomeWidths) -> Floats | float:
        """Return 1 for what is there and 0 for what is gone, (…, things) or one for all."""
        if not len(self._groups) or not (gone := self.gone(widths)).any():
            return 1.0
        return np.where(gone @ self._inside, 0.0, 1.0)

    def share(self, widths: SomeWidths) -> Floats | float:
        """Return the share of the things that is there, (…) or one for all."""
        there = self.at(widths)
        return there if isinstance(there, float) else there.mean(axis=-1)

    def gone(self, widths: SomeWidths) -> npt.NDArray[np.bool_]:
        """Return which branches are gone, (…, branches)."""
        found: npt.NDArray[np.bool_] = np.asarray(widths)[..., self._groups] == 0
        return found
