"""The way down to a budget by the rankings' reconstruction errors, with nothing evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.importance.base import Ranking
from autoprune.policy import Widths
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.search_spaces.projection import Projection

Curves: TypeAlias = Sequence[npt.NDArray[np.float64]]
"""Per group: the error with w units left, w = 0 … size."""

# A cut takes at most this part of a group at once, before prices are looked at again.
STEPS_PER_GROUP = 16


def error_curves(rankings: Sequence[Ranking]) -> Curves:
    """Return the rankings' errors; (1 − keep ratio)² where the criterion gives none."""
    return [
        (1 - np.linspace(0, 1, len(r.order) + 1)) ** 2 if r.errors is None else np.asarray(r.errors)
        for r in rankings
    ]


def least_error(projection: Projection, rankings: Sequence[Ranking]) -> Widths:
    """Return widths on the budget that lose little reconstruction error, greedily."""
    cut = descend(projection.space.sizes, error_curves(rankings), projection)
    return projection.fill(cut)


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
