"""The latency of one layer of any widths: two curves and a coarse grid, on each of its lattices.

Latency against width bends and goes up in steps, at multiples that the device favours, and along
both widths of a layer in much the same manner. So each width has a curve of its own, with the other
one whole; a coarse grid then tells how far the two depart from each other's product. Everything in
between is linear, so that no prediction leaves the range of its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.untrusted import amount, each, extent, fields, positive, significant
from autoprune.cost.latency.alignment import Lattice, lattices
from autoprune.cost.latency.signature import Family, Signature
from autoprune.errors import shown

# Lengths along one side of a coarse grid.
MOST_GRID = 16


@dataclass(frozen=True, eq=False)
class Curve:
    """Latency against one width of a layer, the other one whole.

    Attributes:
        lengths: rising, (points,).
        ms, spread_ms: there, (points,).
    """

    lengths: tuple[int, ...]
    ms: tuple[float, ...]
    spread_ms: tuple[float, ...]

    def at_all(self, full: int) -> Floats:
        """Return the latency at every length from 0 to a full one; at the ends as next to them."""
        return np.interp(np.arange(full + 1), self.lengths, self.ms)

    @property
    def varies(self) -> bool:
        """Whether it was measured at all lengths there are, not at the full one alone."""
        return len(self.lengths) > 1 or self.lengths == (1,)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {name: list(getattr(self, name)) for name in ("lengths", "ms", "spread_ms")}

    @classmethod
    def from_json(cls, data: Any) -> Curve:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is no curve.
        """
        curve = cls(
            **fields(data, {"lengths": _rising, "ms": each(positive), "spread_ms": each(amount)})
        )
        if not len(curve.lengths) == len(curve.ms) == len(curve.spread_ms):
            raise ValueError("a curve's lengths and latencies are not equally many")
        return curve


def _rising(values: Any) -> tuple[int, ...]:
    lengths = each(extent)(values)
    if not lengths or any(a >= b for a, b in itertools.pairwise(lengths)):
        raise ValueError(f"the lengths {shown(lengths)} do not rise")
    return lengths


@dataclass(frozen=True, eq=False)
class Surface:
    """The latency of a layer over both of its widths, on one lattice.

    Attributes:
        inputs, outputs: the curves of both widths, each where the other one ends.
        grid_inputs, grid_outputs: lengths of the coarse grid, rising.
        grid: what the layer takes there, as a multiple of the two curves' product over the latency
            where both end, (inputs, outputs).
    """

    inputs: Curve
    outputs: Curve
    grid_inputs: tuple[int, ...]
    grid_outputs: tuple[int, ...]
    grid: Floats

    @property
    def top_ms(self) -> float:
        """Latency where both curves end."""
        return self.inputs.ms[-1]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "inputs": self.inputs.to_json(),
            "outputs": self.outputs.to_json(),
            "grid_inputs": list(self.grid_inputs),
            "grid_outputs": list(self.grid_outputs),
            "grid": [[significant(x) for x in row] for row in self.grid],
        }

    @classmethod
    def from_json(cls, data: Any) -> Surface:
        """Inverse of `to_json`.

        Raises:
            ValueError: the parts are damaged, or do not fit each other.
        """
        found = fields(
            data,
            {
                "inputs": Curve.from_json,
                "outputs": Curve.from_json,
                "grid_inputs": _rising,
                "grid_outputs": _rising,
                "grid": each(each(positive)),
            },
        )
        grid = found.pop("grid")
        if max(len(found["grid_inputs"]), len(found["grid_outputs"])) > MOST_GRID:
            raise ValueError("the grid is no coarse one")
        if [len(row) for row in grid] != [len(found["grid_outputs"])] * len(found["grid_inputs"]):
            raise ValueError("the grid has the wrong shape")
        return cls(**found, grid=np.array(grid))


@dataclass(frozen=True, eq=False)
class LayerLatency:
    """The latency of one layer of any widths.

    Attributes:
        dense: the layer at its widest.
        alignment: the multiples of it stand out among the numbers of lanes; 1 if none do.
        surfaces: one for each of `lattices(alignment)`.
    """

    dense: Signature
    alignment: int
    surfaces: tuple[Surface, ...]

    @property
    def dense_ms(self) -> float:
        """Latency of the whole layer."""
        return self.surfaces[bool(self.dense.lanes % self.alignment)].top_ms

    def over_inputs(self) -> Floats:
        """Return the latency at every number of inputs from 1, the outputs whole.

        Empty where there is no other number than all of them.
        """
        curves = [surface.inputs for surface in self.surfaces]
        return self._over(curves, self.dense.inputs, 1 if self.dense.groups == 1 else None)

    def over_outputs(self) -> Floats:
        """Return the latency at every number of outputs or groups, the inputs whole; or empty."""
        curves, dense = [surface.outputs for surface in self.surfaces], self.dense
        return self._over(
            curves, dense.channels_out, None if dense.groups == 1 else dense.outputs_at_once
        )

    def _over(self, curves: Sequence[Curve], full: int, unit: int | None) -> Floats:
        """Return a width's latencies; it counts lanes in units, or leaves them whole (None)."""
        if not curves[0].varies:
            return np.zeros(0)
        lengths = np.arange(unit or 1, full + 1, unit or 1)
        lanes = lengths // unit if unit else np.full(full, self.dense.lanes)
        ms = np.stack([curve.at_all(full)[lengths] for curve in curves])
        found: Floats = np.where(lanes % self.alignment, ms[-1], ms[0])
        return found

    def covers(self, family: Family) -> bool:
        """Whether a layer is one of this one's widths, with all that can vary in it."""
        own, other = self.dense, family.dense
        return own.is_like(other) and all(
            _reaches(one.inputs, own.inputs, other.inputs, family.inputs_vary)
            and _reaches(one.outputs, own.channels_out, other.channels_out, family.outputs_vary)
            for one in self.surfaces
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "layer": self.dense.to_json(),
            "alignment": self.alignment,
            "surfaces": [surface.to_json() for surface in self.surfaces],
        }

    @classmethod
    def from_json(cls, data: Any) -> LayerLatency:
        """Inverse of `to_json`.

        Raises:
            ValueError: the parts are damaged, or do not fit each other.
        """
        found = fields(
            data,
            {
                "layer": Signature.from_json,
                "alignment": extent,
                "surfaces": each(Surface.from_json),
            },
        )
        layer = cls(found["layer"], found["alignment"], tuple(found["surfaces"]))
        expected = lattices(layer.alignment)
        if len(layer.surfaces) != len(expected):
            raise ValueError(f"{layer.dense} has the wrong number of surfaces")
        for surface, lattice in zip(layer.surfaces, expected, strict=True):
            _check_ends(surface, layer.dense, lattice)
        return layer


def _reaches(curve: Curve, full: int, wanted: int, varies: bool) -> bool:
    """Whether a curve of a full length holds for a length, and for shorter ones if it varies."""
    return wanted <= full if curve.varies else wanted == full and not varies


def _check_ends(surface: Surface, dense: Signature, lattice: Lattice) -> None:
    """Refuse curves and a grid that do not go from the least to the full width of a lattice.

    Raises:
        ValueError: one of them does not.
    """
    for axis, curve, grid in (
        (dense.input_axis(lattice), surface.inputs, surface.grid_inputs),
        (dense.output_axis(lattice), surface.outputs, surface.grid_outputs),
    ):
        for lengths in (curve.lengths, grid):
            if lengths[-1] != axis.top or lengths[0] not in (axis.least, axis.top):
                raise ValueError(f"{dense} is not measured from its least to its full widths")
