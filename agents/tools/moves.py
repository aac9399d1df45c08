"""Moves in the space of widths: single cuts that meet a bound, and swaps that stay on it."""

from __future__ import annotations

import numpy as np

from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.search_spaces.projection import Projection

# A swap grows a group by at most this part of its levels.
LARGEST_GROWTH = 3


def error(curves: Curves, widths: Widths) -> float:
    """Return the errors of all groups, summed."""
    return float(sum(curve[width] for curve, width in zip(curves, widths, strict=True)))


def narrow(widths: Widths, group: int, projection: Projection) -> Widths | None:
    """Return the widths with one group as wide as the bounds allow, None if it alone cannot help.

    The other groups stay as they are. Where costs need not rise with a group's width, every
    narrower one is tried.
    """
    levels = projection.space.levels[group]
    low, high = 0, int(np.searchsorted(levels, widths[group]))
    if not projection.is_monotone:
        narrower = (with_width(widths, group, int(level)) for level in levels[:high][::-1])
        return projection.first_fit(narrower)
    if not high or not projection.fits(with_width(widths, group, int(levels[0]))):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        fitting = projection.fits(with_width(widths, group, int(levels[middle])))
        low, high = (middle, high) if fitting else (low, middle)
    return with_width(widths, group, int(levels[low]))


def swap(widths: Widths, projection: Projection, random: np.random.Generator) -> Widths | None:
    """Return the widths with one group wider and another narrower, so that the bounds hold.

    Both groups and the step are drawn at random, steps of one level as often as of a few.

    Returns:
        The widths, or None if the draw cannot be done.
    """
    if len(widths) < 2:
        return None
    grown, paying = random.choice(len(widths), size=2, replace=False).tolist()
    levels = projection.space.levels[grown]
    step = int(max(len(levels) / LARGEST_GROWTH, 1.0) ** random.random())
    place = int(np.searchsorted(levels, widths[grown])) + step
    if place >= len(levels):
        return None
    return narrow(with_width(widths, grown, int(levels[place])), paying, projection)
