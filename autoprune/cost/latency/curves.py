"""Where a layer's latency is measured, and what lies in between.

Latency against width bends and goes up in steps, at multiples that the device favours, and along
both widths of a layer in much the same manner. So each width has a curve of its own, measured with
the other one whole and refined where it does not run straight, on both sides of a step; a coarse
grid then tells how far the two depart from each other's product. Everything in between is linear,
so that no prediction leaves the range of its neighbours.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.cost.latency.signature import Family, Signature
from autoprune.cost.latency.stopwatch import Timing
from autoprune.cost.latency.untrusted import amount, each, extent, fields, positive, significant

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
    unit = _unit(dense)

    def timing(units: int) -> Timing | None:
        return measured(dense.cut_to(dense.inputs, units * unit))

    found = points(dense.channels_out // unit, family.outputs_vary, timing)
    return [units * unit for units in sorted(found)]


def _coarse_outputs(family: Family) -> list[int]:
    unit = _unit(family.dense)
    return [n * unit for n in coarse(family.dense.channels_out // unit, family.outputs_vary)]


def _unit(dense: Signature) -> int:
    """Return the outputs that go at once: a whole group of a grouped convolution."""
    return dense.channels_out // dense.groups if dense.groups > 1 else 1


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
            (found["outputs"].lengths, dense.channels_out, _unit(dense)),
            (across, dense.channels_out, _unit(dense)),
        ):
            if lengths[-1] != full or lengths[0] not in (least, full):
                raise ValueError(f"{dense} is not measured from its least to its full widths")
        if [len(row) for row in grid] != [len(across)] * len(along):
            raise ValueError(f"the grid of {dense} has the wrong shape")
        return cls(dense, **found, grid=np.array(grid))


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
        tuple(significant(one.ms) for one in timings),
        tuple(significant(one.spread_ms) for one in timings),
    )
