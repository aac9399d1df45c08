"""One width per group, of least summed loss, within the budget: a multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from autoprune.agents.config import Count, Share
from autoprune.agents.tools.moves import error
from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves
from autoprune.search_spaces.keep_ratio import SearchSpace, with_width
from autoprune.search_spaces.projection import Projection


@dataclass(frozen=True)
class AllocationConfig:
    """How a knapsack is solved.

    Attributes:
        radii: step lengths, as shares of a group: far, and where costs are nearly linear.
        most_steps: steps of one length.
        most_levels: levels of one group that are looked at in one step.
        gap: share of the best sum by which a step may miss it; an exact solution takes ten times as
            long.
    """

    radii: tuple[Share, ...] = (0.3, 0.1)
    most_steps: Count = 10
    most_levels: Count = 48
    gap: Share = 0.01


def allocate(
    projection: Projection, curves: Curves, start: Widths, config: AllocationConfig
) -> Widths:
    """Return widths on the budget whose summed loss is small, never above that of the start.

    A layer's cost is a product of two widths. So costs are linearised around the best widths so
    far, by the exact cost of changing each group alone, and the linear problem is solved (HiGHS)
    within a radius. The solution is projected; the radius shrinks where that is no better. Staying
    is always a solution, so that a cost that is a maximum makes no step impossible.

    Args:
        projection: onto the budget.
        curves: loss of every group by width.
        start: widths that fit.
        config: step lengths, and how exactly a step is solved.
    """
    best, least = start, error(curves, start)
    for radius in config.radii:
        for _ in range(config.most_steps):
            choices = _choices(best, projection.space, curves, radius, config.most_levels)
            widths = _Linear.around(best, projection, choices).solution(config.gap)
            loss = error(curves, widths)
            if loss >= least:
                break
            best, least = widths, loss
    return best


@dataclass(frozen=True, eq=False)
class _Linear:
    """The problem with costs linearised around widths that fit.

    Attributes:
        projection: onto the budget.
        widths: the present ones.
        options: (group, width) of every choice.
        losses: of every choice.
        rows: what each choice adds to every bounded cost, (bounds, choices), as shares of limits.
    """

    projection: Projection
    widths: Widths
    options: Sequence[tuple[int, int]]
    losses: Floats
    rows: Floats

    @classmethod
    def around(
        cls, widths: Widths, projection: Projection, choices: tuple[list[tuple[int, int]], Floats]
    ) -> _Linear:
        """Linearise the costs of some choices, given with their losses, around widths."""
        options, losses = choices
        changed = np.array([_shares(projection, with_width(widths, *o)) for o in options])
        rows = (changed - _shares(projection, widths)).T
        return cls(projection, widths, options, losses, rows)

    def solution(self, gap: float) -> Widths:
        """Return the projected solution, whose loss is within a gap of the least."""
        bounds = np.maximum(1 - _shares(self.projection, self.widths), 0.0)
        chosen = self._solve(bounds, gap)
        if chosen is None:  # the solver's tolerances: staying is a solution
            return self.widths
        return _on_budget(self.projection, tuple(self.options[column][1] for column in chosen))

    def _solve(self, bounds: Floats, gap: float) -> list[int] | None:
        """Return the column of every group's choice, None if HiGHS finds none."""
        groups = np.array([group for group, _ in self.options])
        columns = np.arange(len(groups))
        one_each = csr_array((np.ones(len(groups)), (groups, columns)))
        solution = milp(
            self.losses / max(float(self.losses.max()), 1e-300),
            integrality=np.ones(len(groups), dtype=np.int64),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(self.rows, -np.inf, bounds),
            ],
            options={"mip_rel_gap": gap},
        )
        if solution.x is None:
            return None
        return [
            int(columns[groups == g][solution.x[groups == g].argmax()])
            for g in range(len(self.widths))
        ]


def _shares(projection: Projection, widths: Widths) -> Floats:
    """Return every bounded cost as a share of its limit."""
    return np.array([c.cost.total(widths) / c.limit for c in projection.constraints])


def _on_budget(projection: Projection, widths: Widths) -> Widths:
    if projection.fits(widths):
        return projection.fill(widths)
    return projection.project(projection.space.ratios(widths))


def _choices(
    widths: Widths, space: SearchSpace, curves: Curves, radius: float, most: int
) -> tuple[list[tuple[int, int]], Floats]:
    """Return (group, width) of the levels within a radius of the present widths, and their losses.

    The radius is a share of the group; `most` limits the levels of each group.
    """
    options, losses = [], []
    for group, (levels, curve) in enumerate(zip(space.levels, curves, strict=True)):
        near = levels[_within(levels, widths[group], radius * space.sizes[group], most)]
        options += [(group, int(width)) for width in near]
        losses += curve[near].tolist()
    return options, np.array(losses)


def _within(
    levels: npt.NDArray[np.int64], now: int, distance: float, most: int
) -> npt.NDArray[np.int64]:
    """Return the places of levels no further than a distance, and of the next ones either way."""
    place = int(np.searchsorted(levels, now))
    near = np.flatnonzero(np.abs(levels - now) <= distance)
    if len(near) > most:
        near = near[np.linspace(0, len(near) - 1, most).round().astype(int)]
    beside = np.arange(max(place - 1, 0), min(place + 2, len(levels)))
    return np.union1d(near, beside)
