"""What a search knows of every group when it ends: `groups.json`, made of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.core.policy import Widths
from autoprune.core.records import significant
from autoprune.cost.model import CostModel
from autoprune.engine.problem import PruningProblem
from autoprune.importance import Ranking
from autoprune.search_spaces.keep_ratio import with_width
from autoprune.study.group_records import (
    Curve,
    FrozenRecord,
    GroupRecord,
    GroupRecords,
    Members,
    Step,
)

# Units of the largest group whose order is written down.
LARGEST_ORDER = 1024
# Widths of a curve, besides those that the trials had.
CURVE_WIDTHS = 64


def describe_groups(
    problem: PruningProblem,
    rankings: Sequence[Ranking],
    winner: Widths,
    evaluated: Iterable[Widths],
) -> GroupRecords:
    """Return what is known of every group.

    Args:
        problem: of the search.
        rankings: of the groups' units, with the errors and losses that are known.
        winner: the widths that are handed over.
        evaluated: the widths of all trials.
    """
    tried = [set(column) for column in zip(*evaluated, strict=True)]
    return GroupRecords(
        groups=[
            _group(problem, place, ranking, winner, tried[place] if tried else set())
            for place, ranking in enumerate(rankings)
        ],
        frozen=[FrozenRecord(one.name, one.size, one.reason) for one in problem.structure.frozen],
    )


def _group(
    problem: PruningProblem, place: int, ranking: Ranking, winner: Widths, tried: set[int]
) -> GroupRecord:
    group, space, costs = problem.structure.groups[place], problem.space, problem.costs
    allowed = space.levels[place].tolist()
    near = [one for one in _neighbours(allowed, winner[place]) if one is not None]
    return GroupRecord(
        name=group.name,
        size=group.size,
        lowest=space.lowest[place],
        width=winner[place],
        members=Members(
            list(group.producers), list(dict.fromkeys(one.tensor for one in group.consumers))
        ),
        share={name: _share(cost, space.sizes, place) for name, cost in costs.items()},
        curve=_curve(ranking, sorted({*_thinned(allowed), *tried, *near, winner[place]})),
        steps=[
            Step(width, _totals(costs.values(), with_width(winner, place, width))) for width in near
        ],
        order=list(ranking.order) if group.size <= LARGEST_ORDER else None,
    )


def _totals(costs: Iterable[CostModel], widths: Widths) -> dict[str, float]:
    return {cost.name: float(cost.total(widths)) for cost in costs}


def _share(cost: CostModel, sizes: Widths, place: int) -> float:
    """Return the part of the dense cost that goes with a group, if that alone goes.

    Down to one unit it is the cost model's answer, and the last unit takes as much as the others.
    """
    size, dense = sizes[place], cost.total(sizes)
    if size == 1 or not dense:
        return 0.0
    saved = (dense - cost.total(with_width(sizes, place, 1))) / dense
    return significant(float(np.clip(saved * size / (size - 1), 0.0, 1.0)))


def _neighbours(allowed: Sequence[int], width: int) -> tuple[int | None, int | None]:
    """Return the next smaller and the next larger of rising widths, None where there is none."""
    below = [one for one in allowed if one < width]
    above = [one for one in allowed if one > width]
    return (below[-1] if below else None), (above[0] if above else None)


def _thinned(widths: Sequence[int]) -> list[int]:
    """Return so many of the widths, evenly spaced, that a file can hold; both ends among them."""
    if len(widths) <= CURVE_WIDTHS:
        return list(widths)
    places = np.linspace(0, len(widths) - 1, CURVE_WIDTHS).round().astype(int)
    return [widths[place] for place in places]


def _curve(ranking: Ranking, widths: Sequence[int]) -> Curve:
    def at_widths(values: Sequence[float] | None) -> list[float] | None:
        if values is None:
            return None
        found = [float(values[width]) for width in widths]
        if not all(math.isfinite(one) and one >= 0 for one in found):
            return None  # a criterion may be the user's
        return [significant(one) for one in found]

    return Curve(list(widths), at_widths(ranking.errors), at_widths(ranking.losses))
