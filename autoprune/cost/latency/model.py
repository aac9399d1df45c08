"""Latency of the network cut to any widths, from a table of one device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from autoprune.cost.counts import Floats, Lengths
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.table import LatencyTable
from autoprune.cost.memory import ActivationSizes
from autoprune.cost.model import CostModel
from autoprune.errors import TableError
from autoprune.policy import Widths
from autoprune.structure.groups import Structure

OTHER = "other operators"
FIXED = "fixed"
MEGA = 1e6


@dataclass(frozen=True)
class Prediction:
    """A predicted latency.

    Attributes:
        ms: per run of the table's batch.
        std_ms: how far predictions of this table are off, usually; None if nobody knows.
    """

    ms: float
    std_ms: float | None


class LatencyCost(CostModel):
    """Milliseconds of one forward pass on the table's device, at its batch size.

    Attributes:
        table: what was measured.
        layers: what holds for the network's layers, in its order.
    """

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    is_monotone: ClassVar[bool] = False

    def __init__(self, structure: Structure, table: LatencyTable) -> None:
        """Look every layer of the network up.

        Raises:
            TableError: one of them is not in the table, or the table says nothing of the network.
        """
        self.table = table
        self.layers = table.of_layers(structure)
        self._names = [layer.name for layer in structure.layers]
        self._terms = Terms(structure, self.layers, table.conditions.batch)
        # Every coefficient is zero or more: what holds for the whole network holds for any widths.
        if not self.total(structure.dense_widths) > 0:
            raise TableError("the latency table predicts no time at all: measure another one.")

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the latency of every layer, of what stands between them, and what is fixed."""
        scale, traffic, per_mb, fixed = self.table.correction.coefficients
        layers = scale * self._terms.layers_ms(widths) + per_mb * self._terms.weights_mb(widths)
        return {
            **dict(zip(self._names, layers.tolist(), strict=True)),
            OTHER: traffic * self._terms.traffic_mb(widths),
            FIXED: fixed,
        }

    def total(self, widths: Widths) -> float:
        """Return the latency of the whole network."""
        return float(self.table.correction.apply(self._terms.at(widths)))

    def predict(self, widths: Widths) -> Prediction:
        """Return the latency of the whole network with its uncertainty."""
        ms, error = self.total(widths), self.table.correction.relative_error
        return Prediction(ms, None if error is None else error * ms)


class Terms:
    """The terms of the correction (`correction.TERMS`) for any widths of a network.

    Every layer's two curves are written out over all lengths, one layer behind the other, so that
    a network costs a few array operations.
    """

    def __init__(
        self, structure: Structure, layers: Sequence[LayerLatency], batch: int = 1
    ) -> None:
        """Take the network and its layers' latencies, in its order."""
        specs = structure.layers
        dims = [(s.weight, s.in_dim) for s in specs] + [(s.weight, s.out_dim) for s in specs]
        self._lengths = Lengths(structure, dims)
        self._curves = _Tables(
            [
                *(one.inputs.at_all() / one.dense_ms for one in layers),
                *(one.outputs.at_all() for one in layers),
            ]
        )
        self._places = _Tables(
            [
                *(_places(one.grid_inputs) for one in layers),
                *(_places(one.grid_outputs) for one in layers),
            ]
        )
        self._numbers = np.arange(len(specs), dtype=float)
        self._grid = _padded([one.grid for one in layers])
        self._calls = np.array([spec.calls for spec in specs], dtype=float)
        self._element_mb = np.array(
            [math.prod(s.kernel_size) * structure.itemsizes[s.weight] / MEGA for s in specs]
        )
        self._between, self._between_per_unit = _traffic(structure, batch)
        self._sizes = np.array(structure.dense_widths, dtype=float)

    def at(self, widths: Widths) -> Floats:
        """Return all terms, (terms,)."""
        lengths = self._lengths.at(widths)
        layers, weights = self._layers_ms(lengths).sum(), self._weights_mb(lengths).sum()
        return np.array([layers, self.traffic_mb(widths), weights, 1.0])

    def layers_ms(self, widths: Widths) -> Floats:
        """Return what every layer takes alone, (layers,)."""
        return self._layers_ms(self._lengths.at(widths))

    def weights_mb(self, widths: Widths) -> Floats:
        """Return the megabytes of every layer's weight, (layers,)."""
        return self._weights_mb(self._lengths.at(widths))

    def traffic_mb(self, widths: Widths) -> float:
        """Return the megabytes that other operators read and write."""
        gone = self._sizes - np.asarray(widths, dtype=float)
        return float(self._between - self._between_per_unit @ gone)

    def _layers_ms(self, lengths: Floats) -> Floats:
        whole = np.rint(lengths).astype(np.int64)
        along, across = self._curves.at(whole).reshape(2, -1)
        points = np.vstack([self._numbers, self._places.at(whole).reshape(2, -1)])
        interplay = map_coordinates(self._grid, points, order=1, mode="nearest", prefilter=False)
        latencies: Floats = along * across * interplay * self._calls
        return latencies

    def _weights_mb(self, lengths: Floats) -> Floats:
        inputs, outputs = lengths.reshape(2, -1)
        sizes: Floats = inputs * outputs * self._element_mb
        return sizes


class _Tables:
    """Tables over lengths, one behind the other: all are looked up at once."""

    def __init__(self, tables: Sequence[Floats]) -> None:
        self._starts = np.cumsum([0, *map(len, tables)])[:-1].astype(np.int64)
        self._values = np.concatenate([*tables, np.zeros(0)])

    def at(self, lengths: npt.NDArray[np.int64]) -> Floats:
        found: Floats = self._values[self._starts + lengths]
        return found


def _places(grid: Sequence[int]) -> Floats:
    """Return where every length from 0 lies among the grid's, in fractions of places."""
    return np.interp(np.arange(grid[-1] + 1), grid, np.arange(len(grid)))


def _padded(grids: Sequence[Floats]) -> Floats:
    """Return all grids in one array, filled up with their edges."""
    rows, columns = (max((g.shape[d] for g in grids), default=1) for d in (0, 1))
    if not grids:
        return np.ones((1, 1, 1))
    return np.stack(
        [np.pad(g, ((0, rows - g.shape[0]), (0, columns - g.shape[1])), mode="edge") for g in grids]
    )


def _traffic(structure: Structure, batch: int) -> tuple[float, Floats]:
    """Return the megabytes moved by operators without a layer's weight: dense, and per unit."""
    sizes = ActivationSizes(structure)
    moved = np.zeros(len(structure.activations))
    for operator in structure.operators:
        if not any(name in structure.layer_of_weight for name in operator.tensors):
            for place in (*operator.reads, *operator.writes):
                moved[place] += batch / MEGA
    return float(moved @ sizes.dense), moved @ sizes.per_unit
