"""Where a layer's latency is measured, and what lies in between.

Latency against width bends and goes up in steps, at multiples that the device favours, and along
both widths of a layer in much the same manner. So each width has a curve of its own, measured with
the other one whole and refined where it does not run straight, on both sides of a step; a coarse
grid then tells how far the two depart from each other's product. Everything in between is linear,
so that no prediction leaves the range of its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.cost.latency.signature import Family, Signature
from autoprune.cost.latency.stopwatch import Timing

Floats = npt.NDArray[np.float64]

# Shares of a width where every curve and the grid are measured.
COARSE = (0.125, 0.25, 0.5)
# A curve runs straight where its middle is no further from the chord than that, as a share.
STRAIGHT = 0.04
# Steps lie at multiples of at most that.
LARGEST_STEP = 16
# Shorter stretches are not looked into.
SHORTEST = 4

Measured = Callable[[Signature], Timing | None]
"""The timing of a signature, None if it is not measured yet."""


Points = Callable[[int, bool, Callable[[int], Timing | None]], set[int]]
"""The lengths that a curve goes through, as `nodes` gives them."""


def coarse(length: int, varies: bool) -> list[int]:
    """Return the lengths that are measured in any case, rising."""
    if not varies:
        return [length]
    shares = {_aligned(share * length, length) for share in COARSE}
    return sorted({1, length} | {one for one in shares if 1 < one < length})


def _aligned(wanted: float, length: int) -> int:
    """Return the multiple nearest to a length of the largest power of two that fits into it."""
    step = LARGEST_STEP
    while step > 1 and 2 * step > min(wanted, length):
        step //= 2
    return max(round(wanted / step) * step, 1)


def nodes(length: int, varies: bool, timing: Callable[[int], Timing | None]) -> set[int]:
    """Return the lengths that a curve goes through, as far as they can be told.

    Args:
        length: the full one.
        varies: whether there are others.
        timing: of a length; the nodes hold those to be measured next, whose timing is None.
    """
    # A step up lies right behind a multiple.
    start = sorted(
        {*coarse(length, varies), *(n + 1 for n in coarse(length, varies) if n < length)}
    )
    found = set(start)
    pending = list(itertools.pairwise(start))
    while pending:
        low, high = pending.pop()
        a, b = timing(low), timing(high)
        inner = _middle(low, high)
        if not inner or a is None or b is None:
            continue
        found.update(inner)
        if not _runs_straight(low, a, high, b, inner, timing):
            ends = [low, *inner, high]
            pending += [(ends[0], ends[1]), (ends[-2], ends[-1])]
    return found


def _middle(low: int, high: int) -> list[int]:
    """Return where to look between two lengths: on a multiple and just behind it."""
    if high - low < SHORTEST:
        return []
    step = LARGEST_STEP
    while step > 1 and 2 * step > high - low:
        step //= 2
    middle = round((low + high) / 2 / step) * step
    return [one for one in (middle, middle + 1) if low < one < high]


def _runs_straight(
    low: int,
    a: Timing,
    high: int,
    b: Timing,
    inner: Sequence[int],
    timing: Callable[[int], Timing | None],
) -> bool:
    for length in inner:
        seen = timing(length)
        if seen is None:
            return True  # nothing more can be told before it is measured
        chord = a.ms + (b.ms - a.ms) * (length - low) / (high - low)
        noise = max(seen.spread_ms, a.spread_ms, b.spread_ms)
        if abs(seen.ms - chord) > max(STRAIGHT * seen.ms, noise):
            return False
    return True


def wanted(family: Family, measured: Measured, points: Points = nodes) -> Iterator[Signature]:
    """Yield every signature that the layer's table needs, as far as it can be told yet.

    Args:
        family: the layer.
        measured: timings, so far.
        points: which lengths curves go through.
    """
    dense = family.dense
    for inputs in _input_nodes(family, measured, points):
        yield dense.cut_to(inputs, dense.channels_out)
    for outputs in _output_nodes(family, measured, points):
        yield dense.cut_to(dense.inputs, outputs)
    for inputs in coarse(dense.inputs, family.inputs_vary):
        for outputs in _coarse_outputs(family):
            yield dense.cut_to(inputs, outputs)


def _input_nodes(family: Family, measured: Measured, points: Points) -> list[int]:
    dense = family.dense

    def timing(inputs: int) -> Timing | None:
        return measured(dense.cut_to(inputs, dense.channels_out))

    return sorted(points(dense.inputs, family.inputs_vary, timing))


def _output_nodes(family: Family, measured: Measured, points: Points) -> list[int]:
    """Return the outputs that the curve goes through: whole groups of a grouped convolution."""
    dense = family.dense
    each = dense.channels_out // dense.groups if dense.groups > 1 else 1

    def timing(units: int) -> Timing | None:
        return measured(dense.cut_to(dense.inputs, units * each))

    found = points(dense.channels_out // each, family.outputs_vary, timing)
    return [units * each for units in sorted(found)]


def _coarse_outputs(family: Family) -> list[int]:
    dense = family.dense
    each = dense.channels_out // dense.groups if dense.groups > 1 else 1
    return [n * each for n in coarse(dense.channels_out // each, family.outputs_vary)]


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

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {name: list(getattr(self, name)) for name in ("lengths", "ms", "spread_ms")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        """Inverse of `to_json`.

        Raises:
            ValueError: it is no curve.
        """
        curve = cls(tuple(data["lengths"]), tuple(data["ms"]), tuple(data["spread_ms"]))
        if not len(curve.lengths) == len(curve.ms) == len(curve.spread_ms) > 0:
            raise ValueError("a curve's lengths and latencies are not equally many")
        if any(a >= b for a, b in itertools.pairwise(curve.lengths)):
            raise ValueError("a curve's lengths do not rise")
        if not all(np.isfinite(ms) and ms > 0 for ms in curve.ms):
            raise ValueError("a latency is not above zero and finite")
        return curve


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

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "layer": self.dense.to_json(),
            "inputs": self.inputs.to_json(),
            "outputs": self.outputs.to_json(),
            "grid_inputs": list(self.grid_inputs),
            "grid_outputs": list(self.grid_outputs),
            "grid": [[round(float(x), 5) for x in row] for row in self.grid],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerLatency:
        """Inverse of `to_json`.

        Raises:
            ValueError: the parts do not fit each other.
        """
        layer = cls(
            Signature.from_json(data["layer"]),
            Curve.from_json(data["inputs"]),
            Curve.from_json(data["outputs"]),
            tuple(data["grid_inputs"]),
            tuple(data["grid_outputs"]),
            np.array(data["grid"], dtype=float),
        )
        ends = (layer.grid_inputs[-1], layer.grid_outputs[-1])
        full = (layer.dense.inputs, layer.dense.channels_out)
        if ends != full or (layer.inputs.lengths[-1], layer.outputs.lengths[-1]) != full:
            raise ValueError(f"{layer.dense} is not measured up to its full widths")
        if layer.grid.shape != (len(layer.grid_inputs), len(layer.grid_outputs)):
            raise ValueError(f"the grid of {layer.dense} has the wrong shape")
        if not (np.isfinite(layer.grid) & (layer.grid > 0)).all():
            raise ValueError(f"the grid of {layer.dense} is not above zero and finite")
        return layer


def assemble(family: Family, measured: Measured, points: Points = nodes) -> LayerLatency:
    """Return a layer's latency from what was measured.

    Raises:
        KeyError: a signature that it needs was not measured; its argument is the signature.
    """
    dense = family.dense

    def timing(signature: Signature) -> Timing:
        found = measured(signature)
        if found is None:
            raise KeyError(signature)
        return found

    lengths = _input_nodes(family, measured, points)
    inputs = _curve(lengths, [timing(dense.cut_to(n, dense.channels_out)) for n in lengths])
    lengths = _output_nodes(family, measured, points)
    outputs = _curve(lengths, [timing(dense.cut_to(dense.inputs, n)) for n in lengths])
    grid_inputs = coarse(dense.inputs, family.inputs_vary)
    grid_outputs = _coarse_outputs(family)
    along = dict(zip(inputs.lengths, inputs.ms, strict=True))
    across = dict(zip(outputs.lengths, outputs.ms, strict=True))
    whole = along[dense.inputs]
    grid = [
        [timing(dense.cut_to(a, b)).ms * whole / (along[a] * across[b]) for b in grid_outputs]
        for a in grid_inputs
    ]
    return LayerLatency(
        dense, inputs, outputs, tuple(grid_inputs), tuple(grid_outputs), np.array(grid)
    )


def _curve(lengths: Sequence[int], timings: Sequence[Timing]) -> Curve:
    return Curve(
        tuple(lengths),
        tuple(round(one.ms, 6) for one in timings),
        tuple(round(one.spread_ms, 6) for one in timings),
    )
