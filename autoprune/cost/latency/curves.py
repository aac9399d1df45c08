"""The latency of one layer of any widths: two curves and a coarse grid.

Latency against width bends and goes up in steps, at multiples that the device favours, and along
both widths of a layer in much the same manner. So each width has a curve of its own, with the other
one whole; a coarse grid then tells how far the two depart from each other's product. Everything in
between is linear, so that no prediction leaves the range of its neighbours.
"""

from __future__ import annotations

import itertools
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.cost.latency.signature import Family, Signature
from autoprune.cost.latency.untrusted import amount, each, extent, fields, positive, significant

Floats = npt.NDArray[np.float64]


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

    def at_all(self) -> Floats:
        """Return the latency at every length from 0 to the longest (0: as at the shortest)."""
        return np.interp(np.arange(self.lengths[-1] + 1), self.lengths, self.ms)

    def reaches(self, length: int, varies: bool) -> bool:
        """Whether it holds for a length, and for shorter ones if it varies."""
        if len(self.lengths) == 1:
            return self.lengths == (length,) and (not varies or length == 1)
        return length <= self.lengths[-1]

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
        raise ValueError(f"the lengths {reprlib.repr(lengths)} do not rise")
    return lengths


@dataclass(frozen=True, eq=False)
class LayerLatency:
    """The latency of one layer of any widths.

    Attributes:
        dense: the layer at its widest.
        inputs, outputs: the curves of both widths.
        grid_inputs, grid_outputs: lengths of the coarse grid, rising.
        grid: what the layer takes there, as a multiple of the two curves' product over the dense
            latency, (inputs, outputs).
    """

    dense: Signature
    inputs: Curve
    outputs: Curve
    grid_inputs: tuple[int, ...]
    grid_outputs: tuple[int, ...]
    grid: Floats

    @property
    def dense_ms(self) -> float:
        """Latency of the whole layer."""
        return self.inputs.ms[-1]

    def covers(self, family: Family) -> bool:
        """Whether a layer is one of this one's widths, with all that can vary in it."""
        own, other = self.dense, family.dense
        return (
            own.is_like(other)
            and self.inputs.reaches(other.inputs, family.inputs_vary)
            and self.outputs.reaches(other.channels_out, family.outputs_vary)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "layer": self.dense.to_json(),
            "inputs": self.inputs.to_json(),
            "outputs": self.outputs.to_json(),
            "grid_inputs": list(self.grid_inputs),
            "grid_outputs": list(self.grid_outputs),
            "grid": [[significant(x) for x in row] for row in self.grid],
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
                "inputs": Curve.from_json,
                "outputs": Curve.from_json,
                "grid_inputs": _rising,
                "grid_outputs": _rising,
                "grid": each(each(positive)),
            },
        )
        dense, grid = found.pop("layer"), found.pop("grid")
        along, across = found["grid_inputs"], found["grid_outputs"]
        for lengths, full, least in (
            (found["inputs"].lengths, dense.inputs, 1),
            (along, dense.inputs, 1),
            (found["outputs"].lengths, dense.channels_out, dense.outputs_at_once),
            (across, dense.channels_out, dense.outputs_at_once),
        ):
            if lengths[-1] != full or lengths[0] not in (least, full):
                raise ValueError(f"{dense} is not measured from its least to its full widths")
        if [len(row) for row in grid] != [len(across)] * len(along):
            raise ValueError(f"the grid of {dense} has the wrong shape")
        return cls(dense, **found, grid=np.array(grid))
