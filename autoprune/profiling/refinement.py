"""Chooses where a curve is measured: coarsely at first, then on both sides of every step.

Steps lie at multiples that devices prefer. An interval is therefore examined at such a multiple and
just behind it, and divided further wherever the curve departs from a straight line.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from autoprune.cost.latency.alignment import Axis
from autoprune.profiling.stopwatch import Timing

# The shares of a width where every curve and the grid are measured.
COARSE = (0.125, 0.25, 0.5)
# A curve is straight where its middle departs from the chord by no more than this share.
STRAIGHT = 0.04
# Steps lie at multiples of this or less.
LARGEST_MULTIPLE = 16
# Shorter intervals are not examined.
SHORTEST = 4

TimingAt = Callable[[int], Timing | None]
"""Returns the timing at a position of an axis, or None if it is not measured yet."""


def largest_multiple(axis: Axis) -> int:
    """Return the largest distance between two steps, in positions of the axis."""
    return max(LARGEST_MULTIPLE // axis.alignment_class.multiple, 1)


def coarse(last: int, varies: bool, largest: int) -> list[int]:
    """Return the positions that are measured in any case, rising.

    Args:
        last: The last position of the axis.
        varies: Whether the width can be cut.
        largest: The largest distance between two steps, in positions.
    """
    if not varies:
        return [last]
    shares = {_aligned(share * last, last, largest) for share in COARSE}
    return sorted({1, last} | {one for one in shares if 1 < one < last})


def _aligned(wanted: float, last: int, multiple: int) -> int:
    """Return the position nearest to a wanted one at the largest power of two that fits."""
    while multiple > 1 and 2 * multiple > min(wanted, last):
        multiple //= 2
    return max(round(wanted / multiple) * multiple, 1)


def refined(last: int, varies: bool, timing: TimingAt, largest: int) -> set[int]:
    """Return the positions that a curve needs, as far as they can be told yet.

    Positions whose timing is None are to be measured next.

    Args:
        last: The last position of the axis.
        varies: Whether the width can be cut.
        timing: The timing at a position.
        largest: The largest distance between two steps, in positions.
    """
    # A curve steps up right behind a multiple.
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
        if not _is_straight((low, a), (high, b), inner, timing):
            ends = [low, *inner, high]
            pending += [(ends[0], ends[1]), (ends[-2], ends[-1])]
    return found


def _middle(low: int, high: int, multiple: int) -> list[int]:
    """Return where to measure between two positions: at a multiple and just behind it."""
    if high - low < max(SHORTEST * multiple // LARGEST_MULTIPLE, 2):
        return []
    while multiple > 1 and 2 * multiple > high - low:
        multiple //= 2
    middle = round((low + high) / 2 / multiple) * multiple
    return [one for one in (middle, middle + 1) if low < one < high]


def _is_straight(
    start: tuple[int, Timing], end: tuple[int, Timing], inner: Sequence[int], timing: TimingAt
) -> bool:
    (low, a), (high, b) = start, end
    for position in inner:
        seen = timing(position)
        if seen is None:
            return True  # nothing more can be told before it is measured
        chord = a.ms + (b.ms - a.ms) * (position - low) / (high - low)
        noise = max(seen.spread_ms, a.spread_ms, b.spread_ms)
        if abs(seen.ms - chord) > max(STRAIGHT * seen.ms, noise):
            return False
    return True
