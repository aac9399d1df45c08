"""The bound on latency in a search: by how much a winner misses it, and how it is tightened."""

from __future__ import annotations

import math
from dataclasses import replace

from autoprune.cost.budget import Limit
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.cost.latency.model import LatencyCost
from autoprune.search_spaces.projection import Projection

# A winner may miss its bound by this share: two measurements of one network differ by as much.
TOLERANCE = 0.01
# A tightened bound lies this factor below what the miss asks for.
MARGIN = 0.99


def overshoot(figures: LatencyFigures, limit: Limit) -> float:
    """Return the measured latency divided by its bound, or 0 if nothing was measured.

    A bound that is a share refers to the measured latency of the dense network.
    """
    if figures.measured_ms is None:
        return 0.0
    dense, pruned = figures.measured_ms
    return pruned / limit.resolve(dense)


def is_miss(factor: float) -> bool:
    """Return whether an overshoot is larger than the difference between two measurements."""
    return not math.isnan(factor) and factor > 1 + TOLERANCE


def tightened(projection: Projection, factor: float) -> Projection:
    """Return the projection with its bound on latency lowered by an overshoot.

    Raises:
        BudgetError: No network meets the lower bound.
    """
    return Projection(
        projection.space,
        [
            replace(bound, limit=bound.limit * MARGIN / factor)
            if bound.cost.name == LatencyCost.name
            else bound
            for bound in projection.constraints
        ],
    )
