"""Greedy cuts down to a budget by expected losses, with nothing evaluated."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from autoprune.core.policy import Widths
from autoprune.importance.base import Ranking
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.search_spaces.projection import Projection

Curves: TypeAlias = Sequence[Float64[np.ndarray, " _widths"]]
"""Per group: the loss with w units left, w = 0 … size."""

# A cut takes at most this part of a group at once, before prices are looked at again.
STEPS_PER_GROUP = 16


def expected_losses(rankings: Sequence[Ranking]) -> Curves:
    """Return the expected losses.

    Reconstruction errors stand for them where losses at the network's output are not known, and
    (1 − keep ratio)² where the criterion gives no errors.
    """
    if all(ranking.losses is not None for ranking in rankings):
        return [np.asarray(ranking.losses) for ranking in rankings]
    return [
        (1 - np.linspace(0, 1, len(r.order) + 1)) ** 2 if r.errors is None else np.asarray(r.errors)
        for r in rankings
    ]


def least_loss(projection: Projection, rankings: Sequence[Ranking]) -> Widths:
    """Return widths on the budget that are expected to lose little, greedily."""
    return least_sum(projection, expected_losses(rankings))


def least_sum(projection: Projection, curves: Curves) -> Widths:
    """Return widths on the budget whose summed loss is small, greedily."""
    return projection.fill(greedy_cut(projection.space.sizes, curves, projection))


def greedy_cut(widths: Widths, curves: Curves, projection: Projection) -> Widths:
    """Cut where the least loss buys the most budget, until every bound holds.

    Savings are those of the exact cost models at the current widths: a layer's cost is a product of
    two widths, so every cut changes its neighbours' prices.
    """
    # Where costs are products of widths, the price of a cut rises as others are made: the price
    # that a group had when it was last looked at is a lower bound, and few are looked at again.
    prices = [(-math.inf, group) for group in range(len(curves))]
    while not projection.fits(widths):
        # The projection has made sure that the narrowest widths fit: some group can still be cut.
        _, group = heapq.heappop(prices)
        cut = _cut(widths, group, curves[group], projection, projection.excess(widths))
        if cut is None:
            continue
        if not prices or (cut[0], group) <= prices[0]:
            widths = cut[1]
            # Its next cut has another price: look at it first.
            heapq.heappush(prices, (-math.inf, group))
        else:
            heapq.heappush(prices, (cut[0], group))
    return widths


def _cut(
    widths: Widths,
    group: int,
    losses: Float64[np.ndarray, " widths"],
    projection: Projection,
    excess: float,
) -> tuple[float, Widths] | None:
    """Return (loss per saving, widths) of a group's best cut at the current widths."""
    space = projection.space
    levels, now = space.levels[group], widths[group]
    lower = levels[levels < now]
    if not len(lower):
        return None
    # Curves need not be convex: a cut is as cheap as the cheapest way down.
    slopes = (losses[lower] - losses[now]) / (now - lower)
    cheapest = int(slopes.argmin())
    step_floor = now - max(space.sizes[group] // STEPS_PER_GROUP, 1)
    reached = max(lower[cheapest], lower[lower <= max(step_floor, lower[0])][-1])
    narrower = with_width(widths, group, int(lower[-1]))
    saved = excess - projection.excess(narrower)
    # A cost that is a maximum falls only once all its largest layers are cut.
    per_saving = slopes[cheapest] * (now - lower[-1]) / max(saved, 1e-12)
    step = float(per_saving), with_width(widths, group, int(reached))
    if lower[0] > 0:
        return step
    # What a layer costs at any width is saved only if its branch goes as a whole.
    gone = with_width(widths, group, 0)
    saved = excess - projection.excess(gone)
    return min(step, (float(losses[0] - losses[now]) / max(saved, 1e-12), gone))
