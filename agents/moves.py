"""Moves in the space of widths: cuts that meet a bound, and swaps that stay on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.policy import Widths
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.search_spaces.projection import Projection
from autoprune.strategy import SearchProblem

Curves: TypeAlias = Sequence[npt.NDArray[np.float64]]
"""Per group: the error with w units left, w = 0 … size."""

# A cut takes at most this part of a group at once, before prices are looked at again.
STEPS_PER_GROUP = 16
# A swap grows a group by at most this part of its levels.
LARGEST_GROWTH = 3


def error_curves(problem: SearchProblem) -> Curves:
    """Return the rankings' errors; (1 − keep ratio)² where the criterion gives none."""
    return [
        (1 - np.arange(size + 1) / size) ** 2 if r.errors is None else np.asarray(r.errors)
        for r, size in zip(problem.rankings, problem.space.sizes, strict=True)
    ]


def error(curves: Curves, widths: Widths) -> float:
    """Return the errors of all groups, summed."""
    return float(sum(curve[width] for curve, width in zip(curves, widths, strict=True)))


def descend(widths: Widths, curves: Curves, projection: Projection) -> Widths:
    """Cut where the least error buys the most budget, until every bound holds.

    Savings are those of the exact cost models at the current widths: a layer's cost is a product of
    two widths, so every cut changes its neighbours' prices.
    """
    while not projection.fits(widths):
        excess = projection.excess(widths)
        cuts = [_cut(widths, g, curve, projection, excess) for g, curve in enumerate(curves)]
        # The projection has made sure that the narrowest widths fit.
        widths = min(cut for cut in cuts if cut is not None)[1]
    return widths


def _cut(
    widths: Widths,
    group: int,
    errors: npt.NDArray[np.float64],
    projection: Projection,
    excess: float,
) -> tuple[float, Widths] | None:
    """Return (error per saving, widths) of a group's best cut at the current widths."""
    space = projection.space
    levels, now = space.levels[group], widths[group]
    lower = levels[levels < now]
    if not len(lower):
        return None
    # Error curves need not be convex: a cut is as cheap as the cheapest way down.
    slopes = (errors[lower] - errors[now]) / (now - lower)
    cheapest = int(slopes.argmin())
    step_floor = now - max(space.sizes[group] // STEPS_PER_GROUP, 1)
    reached = max(lower[cheapest], lower[lower <= max(step_floor, lower[0])][-1])
    saved = excess - projection.excess(with_width(widths, group, int(lower[-1])))
    # A cost that is a maximum falls only once all its largest layers are cut.
    per_saving = slopes[cheapest] * (now - lower[-1]) / max(saved, 1e-12)
    return float(per_saving), with_width(widths, group, int(reached))


def narrow(widths: Widths, group: int, projection: Projection) -> Widths | None:
    """Return the widths with one group as wide as the bounds allow, None if it alone cannot help.

    The other groups stay as they are. Where costs need not rise with a group's width, every
    narrower one is tried.
    """
    levels = projection.space.levels[group]
    low, high = 0, int(np.searchsorted(levels, widths[group]))
    if not projection.is_monotone:
        narrower = (with_width(widths, group, int(level)) for level in levels[:high][::-1])
        return next(filter(projection.fits, narrower), None)
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
