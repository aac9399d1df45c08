"""Where a curve is measured: coarsely, and then on both sides of every step.

Steps lie at multiples that devices favour: a stretch is looked into at one of them and just behind
it, and further wherever the curve does not run straight.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from autoprune.cost.latency.alignment import Axis
from autoprune.profiling.stopwatch import Timing

# Shares of a width where every curve and the grid are measured.
COARSE = (0.125, 0.25, 0.5)
# A curve runs straight where its middle is no further from the chord than that, as a share.
STRAIGHT = 0.04
# Steps lie at multiples of at most that.
LARGEST_STEP = 16
# Shorter stretches are not looked into.
SHORTEST = 4

TimingAt = Callable[[int], Timing | None]
"""The timing at a place of an axis, None if it is not measured yet."""


def largest_step(axis: Axis) -> int:
    """Return the places between two steps that lie furthest apart."""
    return max(LARGEST_STEP // axis.lattice.step, 1)


def coarse(last: int, varies: bool, largest: int) -> list[int]:
    """Return the places that are measured in any case, rising.

    Args:
        last: of the axis.
        varies: whether there are others.
        largest: places between two steps, at most.
    """
    if not varies:
        return [last]
    shares = {_aligned(share * last, last, largest) for share in COARSE}
    return sorted({1, last} | {one for one in shares if 1 < one < last})


def _aligned(wanted: float, last: int, step: int) -> int:
    """Return the multiple nearest to a place of the largest power of two that fits into it."""
    while step > 1 and 2 * step > min(wanted, last):
        step //= 2
    return max(round(wanted / step) * step, 1)


def nodes(last: int, varies: bool, timing: TimingAt, largest: int) -> set[int]:
    """Return the places that a curve goes through, as far as they can be told.

    Args:
        last: of the axis.
        varies: whether there are others.
        timing: of a place; the nodes hold those to be measured next, whose timing is None.
        largest: places between two steps, at most.
    """
    # A step up lies right behind a multiple.
    always = coarse(last, varies, largest)
    start = sorted({*always, *(n + 1 for n in always if n < last)})
    found = set(start)
    pending = list(itertools.pairwise(start))
    while pending:
        low, high = pending.pop()
        a, b = timing(low), timing(high)
        inner = _middle(low, high, largest)
        if not inner or a is None or b is None:
            continue
        found.update(inner)
        if not _runs_straight(low, a, high, b, inner, timing):
            ends = [low, *inner, high]
            pending += [(ends[0], ends[1]), (ends[-2], ends[-1])]
    return found


def _middle(low: int, high: int, step: int) -> list[int]:
    """Return where to look between two places: on a multiple and just behind it."""
    if high - low < max(SHORTEST * step // LARGEST_STEP, 2):
        return []
    while step > 1 and 2 * step > high - low:
        step //= 2
    middle = round((low + high) / 2 / step) * step
    return [one for one in (middle, middle + 1) if low < one < high]


def _runs_straight(
    low: int, a: Timing, high: int, b: Timing, inner: Sequence[int], timing: TimingAt
) -> bool:
    for place in inner:
        seen = timing(place)
        if seen is None:
            return True  # nothing more can be told before it is measured
        chord = a.ms + (b.ms - a.ms) * (place - low) / (high - low)
        noise = max(seen.spread_ms, a.spread_ms, b.spread_ms)
        if abs(seen.ms - chord) > max(STRAIGHT * seen.ms, noise):
            return False
    return True
