"""Where a layer's latency is measured: coarsely, and then wherever a curve does not run straight.

Curves are refined on both sides of a step, at multiples that devices favour.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from autoprune.cost.latency.curves import Curve, LayerLatency
from autoprune.cost.latency.signature import Family, Signature
from autoprune.cost.latency.stopwatch import Timing
from autoprune.cost.latency.untrusted import significant

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
    unit = dense.outputs_at_once

    def timing(units: int) -> Timing | None:
        return measured(dense.cut_to(dense.inputs, units * unit))

    found = points(dense.channels_out // unit, family.outputs_vary, timing)
    return [units * unit for units in sorted(found)]


def _coarse_outputs(family: Family) -> list[int]:
    unit = family.dense.outputs_at_once
    return [n * unit for n in coarse(family.dense.channels_out // unit, family.outputs_vary)]


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
