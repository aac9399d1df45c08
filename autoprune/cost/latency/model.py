"""Predicts the latency of a network cut to any widths from the latency table of one device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from autoprune.core.arrays import Floats
from autoprune.core.policy import SomeWidths, Widths
from autoprune.cost.counts import Lengths
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.memory_traffic import MEGA, MemoryTraffic
from autoprune.cost.latency.table import LatencyTable
from autoprune.cost.model import CostModel
from autoprune.cost.presence import Presence
from autoprune.errors import TableError
from autoprune.structure.groups import Structure

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Number = TypeVar("Number", np.int64, np.float64)

OTHER = "other operators"
FIXED = "fixed"
# The least share of a layer's latency that is its own work rather than the overhead of a call.
LEAST_OWN = 0.1


class LatencyCost(CostModel):
    """Milliseconds of one forward pass on the table's device, at the table's batch size.

    Attributes:
        table: The latency table.
        layers: The latencies of the network's layers, in the network's order.
    """

    name = title = "latency"
    unit = "ms"
    budget_units: ClassVar[Mapping[str, float]] = {"ms": 1, "us": 1e-3, "s": 1e3}
    result_key = "latency_ms"  # the measured one
    is_monotone = False

    def __init__(self, structure: Structure, table: LatencyTable) -> None:
        """Look up every layer of the network.

        Raises:
            TableError: A layer is not in the table, or the table predicts no time for the network.
        """
        self.table = table
        self.layers = table.of_layers(structure)
        self._names = [layer.name for layer in structure.layers]
        self._terms = Terms(structure, self.layers, table.call_ms, table.conditions.batch)
        # A lower bound, as no coefficient is negative and every layer is in one of two classes.
        per_unit_ms = table.correction.per_unit_ms
        scale = min(per_unit_ms[:2])
        least = np.array([scale, scale, 0.0, *per_unit_ms[3:]])
        ends = (structure.dense_widths, (1,) * len(structure.dense_widths))
        if not all(least @ self._terms.at(widths) > 0 for widths in ends):
            raise TableError("the latency table predicts no time at all: measure another one.")

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the latency of every layer, of all other operators, and of the fixed part."""
        *of_layers, of_others, fixed = self.table.correction.per_unit_ms
        *terms, others, there = self._terms.by_layer(widths)
        layers = np.array(of_layers) @ np.array(terms)
        return {
            **dict(zip(self._names, layers.tolist(), strict=True)),
            OTHER: of_others * float(others),
            FIXED: fixed * float(there),
        }

    def total(self, widths: Widths) -> float:
        """Return the latency of the whole network."""
        return float(self.totals(widths))

    def totals(self, widths: SomeWidths) -> Floats:
        """Return the latencies of one network or of several, (…)."""
        return self.table.correction.apply(self._terms.at(widths))

    @classmethod
    def shown(cls, value: float) -> str:
        """Return a latency in milliseconds for people."""
        return f"{value:.3f} ms"

    @classmethod
    def compared(cls, dense: float, pruned: float) -> str:
        """Return for people how many times as fast the pruned network is."""
        return f"{dense / pruned:.2f} times as fast"


class Terms:
    """The terms of the correction (`correction.TERMS`) for a network cut to any widths.

    The curves of all surfaces are tabulated over all lengths in one array each, so that the terms
    of a network take a few array operations.
    """

    def __init__(
        self,
        structure: Structure,
        layers: Sequence[LayerLatency],
        call_ms: float,
        batch: int,
    ) -> None:
        """Tabulate the latencies of all layers.

        Args:
            structure: The structure of the network.
            layers: The latencies of the network's layers, in the network's order.
            call_ms: The overhead of a call.
            batch: The samples per run.
        """
        specs = structure.layers
        dims = [(s.weight, s.in_dim) for s in specs] + [(s.weight, s.out_dim) for s in specs]
        self._lengths = Lengths(structure, dims)
        self._alignment = _Alignment(layers)
        self._first = np.cumsum([0, *(len(one.surfaces) for one in layers)])[:-1]
        # Only up to the lengths of this network: the layers of a table may be far wider.
        full = np.rint(self._lengths.at(structure.dense_widths)).astype(int).reshape(2, -1).T
        surfaces = [
            (s, *ends) for one, ends in zip(layers, full, strict=True) for s in one.surfaces
        ]
        self._curves = (
            _Tables([s.inputs.at_all(inputs) / s.top_ms for s, inputs, _ in surfaces]),
            _Tables([s.outputs.at_all(outputs) for s, _, outputs in surfaces]),
        )
        self._grid_position = (
            _Tables([_grid_positions(s.grid_inputs, inputs) for s, inputs, _ in surfaces]),
            _Tables([_grid_positions(s.grid_outputs, outputs) for s, _, outputs in surfaces]),
        )
        self._grid = _padded([np.array(surface.grid) for surface, *_ in surfaces])
        self._calls = np.array([spec.calls for spec in specs], dtype=float)
        self._element_mb = np.array(
            [math.prod(s.kernel_size) * structure.itemsizes[s.weight] / MEGA for s in specs]
        )
        self._traffic = MemoryTraffic(structure, batch)
        weights = [spec.weight for spec in specs]
        self._layers = Presence(structure, weights, lambda branch: branch.weights)
        numbers = [operator.number for operator in structure.operators]
        self._operators = Presence(structure, numbers, lambda branch: branch.operators)
        self._call_ms = call_ms

    def at(self, widths: SomeWidths) -> Floats:
        """Return all terms of the whole network, (…, terms)."""
        *by_layer, other, there = self.by_layer(widths)
        terms = np.empty((*np.shape(other), len(by_layer) + 2))
        for place, part in enumerate(by_layer):
            terms[..., place] = part.sum(axis=-1)
        terms[..., -2], terms[..., -1] = other, there
        return terms

    def by_layer(
        self, widths: SomeWidths
    ) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats | float]:
        """Return the terms of every layer, each (…, layers), and those of the whole network, (…).

        These are the traffic of other operators, and the share of all operators that is there: what
        does not depend on widths is mostly the overhead of calling operators.
        """
        widths = np.asarray(widths, dtype=float)
        lengths = self._lengths.at(widths)
        inputs, outputs = _ends(np.rint(lengths).astype(np.int64))
        misaligned = self._alignment.misaligned(inputs, outputs)
        present = self._layers.at(widths)
        ms = self._layers_ms(inputs, outputs, misaligned) * present
        moved, other = self._traffic.at(widths)
        weights = self._weights_mb(lengths) * present
        there = self._operators.share(widths)
        return ms * ~misaligned, ms * misaligned, moved * misaligned, weights, other, there

    def _layers_ms(self, inputs: Integers, outputs: Integers, misaligned: Booleans) -> Floats:
        rows = self._first + misaligned
        points = np.stack(
            [
                rows,
                self._grid_position[0].at(rows, inputs),
                self._grid_position[1].at(rows, outputs),
            ]
        )
        departure = map_coordinates(self._grid, points, order=1, mode="nearest", prefilter=False)
        curves = self._curves[0].at(rows, inputs) * self._curves[1].at(rows, outputs)
        alone = curves * departure
        latencies: Floats = np.maximum(alone - self._call_ms, LEAST_OWN * alone) * self._calls
        return latencies

    def _weights_mb(self, lengths: Floats) -> Floats:
        inputs, outputs = _ends(lengths)
        sizes: Floats = inputs * outputs * self._element_mb
        return sizes


def _ends(lengths: npt.NDArray[Number]) -> tuple[npt.NDArray[Number], npt.NDArray[Number]]:
    """Return the lengths of the inputs and of the outputs of all layers, each (…, layers)."""
    layers = lengths.shape[-1] // 2
    return lengths[..., :layers], lengths[..., layers:]


class _Alignment:
    """Tells which layers are misaligned at some lengths of their weights."""

    def __init__(self, layers: Sequence[LayerLatency]) -> None:
        self._alignment = np.array([one.alignment for one in layers], dtype=np.int64)
        self._by_group = np.array([one.dense.loses_groups for one in layers], dtype=bool)
        self._unit = np.array([one.dense.outputs_at_once for one in layers], dtype=np.int64)

    def misaligned(self, inputs: Integers, outputs: Integers) -> Booleans:
        aligned_channels = np.where(self._by_group, outputs // self._unit, inputs)
        found: Booleans = aligned_channels % self._alignment > 0
        return found


class _Tables:
    """Tables over lengths in one array, so that all layers are looked up at once."""

    def __init__(self, tables: Sequence[Floats]) -> None:
        self._starts = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int64)
        self._values = np.concatenate([*tables, np.zeros(0)])

    def at(self, tables: Integers, lengths: Integers) -> Floats:
        found: Floats = self._values[self._starts[tables] + lengths]
        return found


def _grid_positions(grid: Sequence[int], full: int) -> Floats:
    """Return the fractional position in a grid of every length from 0 to `full`, (full + 1,)."""
    return np.interp(np.arange(full + 1), grid, np.arange(len(grid)))


def _padded(grids: Sequence[Floats]) -> Floats:
    """Return all grids in one array, padded with their edge values."""
    rows, columns = (max((g.shape[d] for g in grids), default=1) for d in (0, 1))
    if not grids:
        return np.ones((1, 1, 1))
    return np.stack(
        [np.pad(g, ((0, rows - g.shape[0]), (0, columns - g.shape[1])), mode="edge") for g in grids]
    )
