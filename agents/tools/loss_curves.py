"""Loss of value by cutting one group alone, at every width, from a few probes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from autoprune.agents.base import SearchProblem
from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves, expected_losses
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.study.trial import Candidate

# More widths per group than this say nothing new of a smooth curve.
MOST_POINTS = 8


def plan_probes(problem: SearchProblem, share: float) -> list[Candidate]:
    """Return probes that cut one group of the dense network each, in network order.

    The dense network itself comes first: losses are counted from its value.

    Args:
        problem: whose groups are cut.
        share: of its trials that may be spent; all groups get equally many probes.
    """
    free = [g for g, levels in enumerate(problem.space.levels) if len(levels) > 1]
    points = min(int(share * problem.trials - 1) // max(len(free), 1), MOST_POINTS)
    if points < 1 or not free:
        return []
    dense = problem.space.sizes
    cuts = [with_width(dense, g, w) for g in free for w in _spread(problem, g, points)]
    return [Candidate(widths, "probe", base=dense) for widths in [dense, *cuts]]


def _spread(problem: SearchProblem, group: int, points: int) -> list[int]:
    """Return levels in the middles of equal parts of the range below the full one."""
    lower = problem.space.levels[group][:-1]
    places = (np.arange(points) + 0.5) / points * len(lower)
    return sorted({int(lower[int(place)]) for place in places})


def loss_curves(problem: SearchProblem, values: Mapping[Widths, float]) -> Curves:
    """Return the loss of every group by width; it never rises and ends at 0 (full).

    Between measured widths the loss is interpolated monotonically (PCHIP) over what the
    group is expected to lose, or over the squared cut where nothing is.

    Args:
        problem: whose groups they are.
        values: of evaluated widths; other widths than the probes' count for nothing.
    """
    dense = problem.space.sizes
    top = values.get(dense, max(values.values(), default=0.0))
    sizes = zip(expected_losses(problem.rankings), problem.space.levels, dense, strict=True)
    shapes = [_shape(errors[levels], 1 - levels / size) for errors, levels, size in sizes]
    points = [
        {
            place: top - values[cut]
            for place, width in enumerate(levels[:-1])
            if (cut := with_width(dense, group, int(width))) in values
        }
        for group, levels in enumerate(problem.space.levels)
    ]
    slopes = [
        y / shape[p] for shape, own in zip(shapes, points, strict=True) for p, y in own.items()
    ]
    usual = max(float(np.median(slopes)), 0.0) if slopes else 1.0
    curves = [
        _interpolate(shape, own) if own else usual * shape
        for shape, own in zip(shapes, points, strict=True)
    ]
    return [
        np.interp(np.arange(size + 1), levels, curve)
        for size, levels, curve in zip(dense, problem.space.levels, curves, strict=True)
    ]


def _shape(errors: Floats, cut: Floats) -> Floats:
    """Return what the loss is taken to be a smooth function of, strictly falling to 0.

    Args:
        errors: or losses of the group at each level.
        cut: the share of its units that each level takes away.
    """
    rising = np.maximum.accumulate(errors[::-1])[::-1]
    return np.asarray(rising - rising[-1] + 1e-6 * (rising[0] or 1.0) * cut)


def _interpolate(shape: Floats, points: Mapping[int, float]) -> Floats:
    """Return a monotone curve through measured (place, loss), in proportion beyond the last."""
    places = sorted(points, reverse=True)
    x = np.array([0.0, *(shape[p] for p in places)])
    y = np.array([0.0, *(max(points[p], 0.0) for p in places)])
    y = isotonic_regression(y).x
    if places[-1] != 0:
        x, y = np.append(x, shape[0]), np.append(y, y[-1] * shape[0] / x[-1])
    return np.asarray(PchipInterpolator(x, y)(shape))
