"""The latency of one layer at any widths: two curves and a coarse grid per alignment class.

Latency against width bends and rises in steps, at multiples that the device prefers, and it does so
in much the same way along both widths of a layer. Each width therefore has a curve of its own,
measured with the other width whole; a coarse grid then says how far the layer departs from the
product of the two curves. Everything in between is interpolated linearly, so that no prediction
leaves the range of its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.records import AboveZero, Extent, Measured, Record
from autoprune.cost.latency.alignment import AlignmentClass, alignment_classes
from autoprune.cost.latency.signature import Family, Signature
from autoprune.errors import shown

# The most lengths along one side of a coarse grid.
MOST_GRID = 16


class Curve(Record, frozen=True, eq=False):
    """Latency against one width of a layer, with the other one whole.

    Attributes:
        lengths: The lengths of the width, rising, (points,).
        ms: The latencies at these lengths, (points,).
        spread_ms: The spreads of these latencies, (points,).
    """

    lengths: tuple[Extent, ...]
    ms: tuple[AboveZero, ...]
    spread_ms: tuple[Measured, ...]

    def __post_init__(self) -> None:
        _check_rising(self.lengths)
        if not len(self.lengths) == len(self.ms) == len(self.spread_ms):
            raise ValueError("a curve has different numbers of lengths and latencies")

    def at_all(self, full: int) -> Floats:
        """Return the latency at every length from 0 to `full`, (full + 1,).

        It is linear between the measured lengths, and constant beyond them.
        """
        return np.interp(np.arange(full + 1), self.lengths, self.ms)

    @property
    def varies(self) -> bool:
        """Whether the curve covers all lengths, rather than the full one alone."""
        return len(self.lengths) > 1 or self.lengths == (1,)


def _check_rising(lengths: Sequence[int]) -> None:
    if not lengths or any(a >= b for a, b in itertools.pairwise(lengths)):
        raise ValueError(f"the lengths {shown(lengths)} do not rise")


class Surface(Record, frozen=True, eq=False):
    """The latency of a layer over both of its widths, in one alignment class.

    Attributes:
        inputs: The curve along the inputs, at the greatest number of outputs.
        outputs: The curve along the outputs, at the greatest number of inputs.
        grid_inputs: The numbers of inputs in the coarse grid, rising.
        grid_outputs: The numbers of outputs in the coarse grid, rising.
        grid: The latencies in the grid relative to the product of the two curves divided by
            `top_ms`, (inputs, outputs).
    """

    inputs: Curve
    outputs: Curve
    grid_inputs: tuple[Extent, ...]
    grid_outputs: tuple[Extent, ...]
    grid: tuple[tuple[AboveZero, ...], ...]

    def __post_init__(self) -> None:
        for lengths in (self.grid_inputs, self.grid_outputs):
            _check_rising(lengths)
        if max(len(self.grid_inputs), len(self.grid_outputs)) > MOST_GRID:
            raise ValueError("the grid is not a coarse one")
        if [len(row) for row in self.grid] != [len(self.grid_outputs)] * len(self.grid_inputs):
            raise ValueError("the grid has the wrong shape")

    @property
    def top_ms(self) -> float:
        """The latency at the greatest number of inputs and of outputs."""
        return self.inputs.ms[-1]


class LayerLatency(Record, frozen=True, eq=False):
    """The latency of one layer at any widths.

    Attributes:
        dense: The layer at its widest.
        alignment: The number at whose multiples of aligned channels the layer is fast; 1 if the
            device treats all widths alike.
        surfaces: One surface for each of `alignment_classes(alignment)`.
    """

    dense: Signature = msgspec.field(name="layer")
    alignment: Extent
    surfaces: tuple[Surface, ...]

    def __post_init__(self) -> None:
        expected = alignment_classes(self.alignment)
        if len(self.surfaces) != len(expected):
            raise ValueError(f"{self.dense} has the wrong number of surfaces")
        for surface, own in zip(self.surfaces, expected, strict=True):
            _check_ends(surface, self.dense, own)

    @property
    def dense_ms(self) -> float:
        """The latency of the dense layer."""
        return self.surfaces[bool(self.dense.aligned_channels % self.alignment)].top_ms

    def over_inputs(self) -> Floats:
        """Return the latency at every number of inputs from 1, with all outputs, (inputs,).

        The array is empty if the inputs cannot be cut.
        """
        curves = [surface.inputs for surface in self.surfaces]
        return self._over(curves, self.dense.inputs, None if self.dense.loses_groups else 1)

    def over_outputs(self) -> Floats:
        """Return the latency at every number of outputs or groups, with all inputs; or empty."""
        curves, dense = [surface.outputs for surface in self.surfaces], self.dense
        return self._over(
            curves, dense.channels_out, dense.outputs_at_once if dense.loses_groups else None
        )

    def _over(self, curves: Sequence[Curve], full: int, unit: int | None) -> Floats:
        """Return the latency at every length of a width.

        Args:
            curves: The curves of the width, one for each alignment class.
            full: The full length.
            unit: The length of one aligned channel; None if this width leaves them all in place.
        """
        if not curves[0].varies:
            return np.zeros(0)
        lengths = np.arange(unit or 1, full + 1, unit or 1)
        aligned = lengths // unit if unit else np.full(full, self.dense.aligned_channels)
        ms = np.stack([curve.at_all(full)[lengths] for curve in curves])
        found: Floats = np.where(aligned % self.alignment, ms[-1], ms[0])
        return found

    def covers(self, family: Family) -> bool:
        """Return whether cutting this layer gives the other one, at all of its widths."""
        own, other = self.dense, family.dense
        return own.is_like(other) and all(
            _reaches(one.inputs, own.inputs, other.inputs, family.inputs_vary)
            and _reaches(one.outputs, own.channels_out, other.channels_out, family.outputs_vary)
            for one in self.surfaces
        )


def _reaches(curve: Curve, full: int, wanted: int, varies: bool) -> bool:
    """Return whether a curve covers a wanted length and, if that varies, all shorter ones."""
    return wanted <= full if curve.varies else wanted == full and not varies


def _check_ends(surface: Surface, dense: Signature, own: AlignmentClass) -> None:
    """Refuse curves and a grid that do not span the whole of an alignment class.

    Raises:
        ValueError: One of them does not.
    """
    for axis, curve, grid in (
        (dense.input_axis(own), surface.inputs, surface.grid_inputs),
        (dense.output_axis(own), surface.outputs, surface.grid_outputs),
    ):
        for lengths in (curve.lengths, grid):
            if lengths[-1] != axis.top or lengths[0] not in (axis.least, axis.top):
                raise ValueError(f"{dense} is not measured from its least to its full widths")
