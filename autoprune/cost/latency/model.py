"""Latency of the network cut to any widths, from a table of one device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.cost.counts import Lengths
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.memory_traffic import MEGA, Traffic
from autoprune.cost.latency.table import LatencyTable
from autoprune.cost.model import CostModel
from autoprune.errors import TableError
from autoprune.structure.groups import Structure

Integers = npt.NDArray[np.int64]

OTHER = "other operators"
FIXED = "fixed"
# A layer's latency is not all call: of what it takes alone, that share is its own at least.
LEAST_OWN = 0.1


class LatencyCost(CostModel):
    """Milliseconds of one forward pass on the table's device, at its batch size.

    Attributes:
        table: what was measured.
        layers: what holds for the network's layers, in its order.
    """

    name = title = "latency"
    unit = "ms"
    budget_units: ClassVar[Mapping[str, float]] = {"ms": 1, "us": 1e-3, "s": 1e3}
    result_key = "latency_ms"  # the measured one
    is_monotone = False

    def __init__(self, structure: Structure, table: LatencyTable) -> None:
        """Look every layer of the network up.

        Raises:
            TableError: one of them is not in the table, or the table says nothing of the network.
        """
        self.table = table
        self.layers = table.of_layers(structure)
        self._names = [layer.name for layer in structure.layers]
        self._terms = Terms(structure, self.layers, table.call_ms, table.conditions.batch)
        # Every coefficient is zero or more, and layers are on either lattice: this is the least.
        scale = min(table.correction.coefficients[:2])
        least = np.array([scale, scale, 0.0, *table.correction.coefficients[3:]])
        ends = (structure.dense_widths, (1,) * len(structure.dense_widths))
        if not all(least @ self._terms.at(widths) > 0 for widths in ends):
            raise TableError("the latency table predicts no time at all: measure another one.")

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the latency of every layer, of what stands between them, and what is fixed."""
        *of_layers, of_others, fixed = self.table.correction.coefficients
        *terms, others = self._terms.by_layer(widths)
        layers = np.array(of_layers) @ np.array(terms)
        return {
            **dict(zip(self._names, layers.tolist(), strict=True)),
            OTHER: of_others * others,
            FIXED: fixed,
        }

    def total(self, widths: Widths) -> float:
        """Return the latency of the whole network."""
        return float(self.table.correction.apply(self._terms.at(widths)))

    @classmethod
    def shown(cls, value: float) -> str:
        """Return a latency in milliseconds for people."""
        return f"{value:.3f} ms"

    @classmethod
    def compared(cls, dense: float, pruned: float) -> str:
        """Return for people how many times as fast the pruned network is."""
        return f"{dense / pruned:.2f} times as fast"


class Terms:
    """The terms of the correction (`correction.TERMS`) for any widths of a network.

    Both curves of every surface are written out over all lengths, one behind the other, so that a
    network costs a few array operations.
    """

    def __init__(
        self,
        structure: Structure,
        layers: Sequence[LayerLatency],
        call_ms: float,
        batch: int,
    ) -> None:
        """Take the network, its layers' latencies in its order, and what a bare call takes."""
        specs = structure.layers
        dims = [(s.weight, s.in_dim) for s in specs] + [(s.weight, s.out_dim) for s in specs]
        self._lengths = Lengths(structure, dims)
        self._lanes = _Lanes(layers)
        self._first = np.cumsum([0, *(len(one.surfaces) for one in layers)])[:-1]
        # Only up to the network's own lengths: a table may be of far wider layers.
        full = np.rint(self._lengths.at(structure.dense_widths)).astype(int).reshape(2, -1).T
        surfaces = [
            (s, *ends) for one, ends in zip(layers, full, strict=True) for s in one.surfaces
        ]
        self._curves = (
            _Tables([s.inputs.at_all(inputs) / s.top_ms for s, inputs, _ in surfaces]),
            _Tables([s.outputs.at_all(outputs) for s, _, outputs in surfaces]),
        )
        self._in_grid = (
            _Tables([_places(s.grid_inputs, inputs) for s, inputs, _ in surfaces]),
            _Tables([_places(s.grid_outputs, outputs) for s, _, outputs in surfaces]),
        )
        self._grid = _padded([surface.grid for surface, *_ in surfaces])
        self._calls = np.array([spec.calls for spec in specs], dtype=float)
        self._element_mb = np.array(
            [math.prod(s.kernel_size) * structure.itemsizes[s.weight] / MEGA for s in specs]
        )
        self._traffic = Traffic(structure, batch)
        self._call_ms = call_ms

    def at(self, widths: Widths) -> Floats:
        """Return all terms, (terms,)."""
        *by_layer, other = self.by_layer(widths)
        aligned, odd, converted, weights = (part.sum() for part in by_layer)
        return np.array([aligned, odd, converted, weights, other, 1.0])

    def by_layer(self, widths: Widths) -> tuple[Floats, Floats, Floats, Floats, float]:
        """Return the terms that are sums over layers, each (layers,), and the traffic of others."""
        lengths = self._lengths.at(widths)
        inputs, outputs = np.rint(lengths).astype(np.int64).reshape(2, -1)
        odd = self._lanes.odd(inputs, outputs)
        ms = self._layers_ms(inputs, outputs, odd)
        moved, other = self._traffic.at(widths)
        return ms * ~odd, ms * odd, moved * odd, self._weights_mb(lengths), other

    def _layers_ms(self, inputs: Integers, outputs: Integers, odd: npt.NDArray[np.bool_]) -> Floats:
        rows = self._first + odd
        points = np.vstack(
            [rows, self._in_grid[0].at(rows, inputs), self._in_grid[1].at(rows, outputs)]
        )
        interplay = map_coordinates(self._grid, points, order=1, mode="nearest", prefilter=False)
        curves = self._curves[0].at(rows, inputs) * self._curves[1].at(rows, outputs)
        alone = curves * interplay
        latencies: Floats = np.maximum(alone - self._call_ms, LEAST_OWN * alone) * self._calls
        return latencies

    def _weights_mb(self, lengths: Floats) -> Floats:
        inputs, outputs = lengths.reshape(2, -1)
        sizes: Floats = inputs * outputs * self._element_mb
        return sizes


class _Lanes:
    """Which layers are odd at some lengths of their weights."""

    def __init__(self, layers: Sequence[LayerLatency]) -> None:
        self._alignment = np.array([one.alignment for one in layers], dtype=np.int64)
        self._by_group = np.array([one.dense.groups > 1 for one in layers], dtype=bool)
        self._unit = np.array([one.dense.outputs_at_once for one in layers], dtype=np.int64)

    def odd(self, inputs: Integers, outputs: Integers) -> npt.NDArray[np.bool_]:
        lanes = np.where(self._by_group, outputs // self._unit, inputs)
        found: npt.NDArray[np.bool_] = lanes % self._alignment > 0
        return found


class _Tables:
    """Tables over lengths, one behind the other: all are looked up at once."""

    def __init__(self, tables: Sequence[Floats]) -> None:
        self._starts = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int64)
        self._values = np.concatenate([*tables, np.zeros(0)])

    def at(self, tables: Integers, lengths: Integers) -> Floats:
        found: Floats = self._values[self._starts[tables] + lengths]
        return found


def _places(grid: Sequence[int], full: int) -> Floats:
    """Return where every length from 0 lies among the grid's, in fractions of places."""
    return np.interp(np.arange(full + 1), grid, np.arange(len(grid)))


def _padded(grids: Sequence[Floats]) -> Floats:
    """Return all grids in one array, filled up with their edges."""
    rows, columns = (max((g.shape[d] for g in grids), default=1) for d in (0, 1))
    if not grids:
        return np.ones((1, 1, 1))
    return np.stack(
        [np.pad(g, ((0, rows - g.shape[0]), (0, columns - g.shape[1])), mode="edge") for g in grids]
    )
