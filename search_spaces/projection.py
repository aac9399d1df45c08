"""Projection of any vector of keep ratios onto a budget, exact after rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Float64

from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.errors import BudgetError, spelt
from autoprune.search_spaces.keep_ratio import SearchSpace, with_width

_BISECTIONS = 40
# Where a cost goes up and down in steps, a wider group may fit again: levels that are looked at.
_LOOK_AHEAD = 16


@dataclass(frozen=True)
class Constraint:
    """An upper bound on one cost, in the cost's own unit."""

    cost: CostModel
    limit: float

    def holds(self, widths: Widths) -> bool:
        """Whether the cut network stays within the bound."""
        return self.cost.total(widths) <= self._most

    def fitting(self, widths: Sequence[Widths]) -> npt.NDArray[np.bool_]:
        """Return which of several networks stay within the bound, (networks,)."""
        found: npt.NDArray[np.bool_] = self.cost.totals(widths) <= self._most
        return found

    @property
    def _most(self) -> float:
        return self.limit * (1 + 1e-12)


class Projection:
    """Maps keep ratios to the widths nearest in proportion that just meet every bound.

    All ratios are scaled by one common factor, the largest with which the rounded widths fit; then
    groups grow by single steps, those furthest below their share first, until no single step of any
    group fits any more. The result never exceeds a bound, and it is maximal; groups also step over
    widths at which a cost that is not monotone (measured latency) is higher than behind them.
    A group without units, whose branch is gone, stays so. Without any bound the ratios are taken as
    they are, and widths are only rounded to the nearest that are allowed.

    Attributes:
        space: allowed widths; where the narrowest exceed a bound on a cost that is not monotone,
            those from the nearest on that were found to meet it.
        is_monotone: whether no group that grows can make any bounded cost fall.
        constraints: the bounds.
    """

    def __init__(self, space: SearchSpace, constraints: Sequence[Constraint]) -> None:
        """Check that the budget can be reached at all.

        Raises:
            BudgetError: even the narrowest network exceeds a bound.
        """
        self.space = space
        self.constraints = tuple(constraints)
        self.is_monotone = all(one.cost.is_monotone for one in self.constraints)
        least = space.lowest
        if not self.is_monotone:
            least = cheapened(space, lambda w: 0.0 if self.fits(w) else self.excess(w))
        for constraint in self.constraints:
            if not constraint.holds(least):
                raise BudgetError(_unreachable(constraint, space, least))
        if least != space.lowest:
            self.space = replace(space, lowest=least)

    def fits(self, widths: Widths) -> bool:
        """Whether every bound holds."""
        return all(constraint.holds(widths) for constraint in self.constraints)

    def first_fit(self, candidates: Iterable[Widths]) -> Widths | None:
        """Return the first widths that every bound holds for; None if there are none."""
        left = iter(candidates)
        while some := list(islice(left, _LOOK_AHEAD)):
            held = [constraint.fitting(some) for constraint in self.constraints]
            fitting = np.flatnonzero(np.all(held, axis=0))
            if fitting.size:
                return some[int(fitting[0])]
        return None

    def excess(self, widths: Widths) -> float:
        """Return by what share the bounds are exceeded, summed; 0 where all hold."""
        return sum(max(c.cost.total(widths) / c.limit - 1, 0.0) for c in self.constraints)

    def uniform(self, ratio: float = 1.0) -> Widths:
        """Return the widths with all keep ratios alike; how large counts only without a bound."""
        return self.project(np.full(len(self.space), ratio))

    def project(self, ratios: Sequence[float] | Float[np.ndarray, " groups"]) -> Widths:
        """Return the widths for a vector of keep ratios.

        Only their proportions matter, unless there is no bound. Zero means none of a group's units
        where that is allowed, and as few as may be elsewhere.
        """
        given, can_go = np.asarray(ratios, dtype=float), np.array(self.space.lowest) == 0
        wanted = np.where(can_go & (given <= 0), 0.0, given.clip(1e-6)) * self.space.sizes
        if not self.constraints:
            return self.space.nearest(wanted)
        if self.fits(self.space.sizes):
            return self.space.sizes
        there = wanted > 0
        if not there.any():
            return self.fill(self.space.lowest)
        low, high = 0.0, float(np.max(np.array(self.space.sizes)[there] / wanted[there]))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            fitting = self.fits(self.space.round_down(middle * wanted))
            low, high = (middle, high) if fitting else (low, middle)
        return self.fill(self.space.round_down(low * wanted), low * wanted)

    def fill(self, widths: Widths, wanted: Float64[np.ndarray, " groups"] | None = None) -> Widths:
        """Spend what is left of the budget in single steps, neediest group first.

        Args:
            widths: widths that fit.
            wanted: unrounded widths to approach; none means an even spread.
        """
        target = np.asarray(self.space.sizes if wanted is None else wanted, dtype=float)
        grew = True
        while grew:
            grew = False
            need = (target - np.asarray(widths)) / self.space.sizes
            for group in np.argsort(-need, kind="stable"):
                wider = self._wider(widths, int(group)) if widths[group] else None
                if wider is not None:
                    widths, grew = wider, True
        return widths

    def _wider(self, widths: Widths, group: int) -> Widths | None:
        """Return the widths with one group at the next level that fits, None if there is none."""
        if self.is_monotone:
            wider = self.space.next_up(widths, group)
            return wider if wider is None or self.fits(wider) else None
        levels = self.space.levels[group]
        following = int(np.searchsorted(levels, widths[group], side="right"))
        further = levels[following : following + _LOOK_AHEAD].tolist()
        return self.first_fit(with_width(widths, group, width) for width in further)


def cheapened(space: SearchSpace, excess: Callable[[Widths], float]) -> Widths:
    """Return the narrowest widths, with groups raised to cheaper levels until that gains nothing.

    A layer of one channel may take longer than one of eight.

    Args:
        space: allowed widths.
        excess: what widths cost too much; nothing is raised any more where that is zero.
    """
    widths, raised = space.lowest, True
    while raised:
        raised = False
        for group, levels in enumerate(space.levels):
            if excess(widths) == 0:
                return widths
            wider = [with_width(widths, group, int(w)) for w in levels if w > widths[group]]
            best = min([widths, *wider], key=excess)
            widths, raised = best, raised or best != widths
    return widths


def _unreachable(constraint: Constraint, space: SearchSpace, widths: Widths) -> str:
    cost, least = constraint.cost, constraint.cost.total(widths)
    dense = cost.total(space.sizes)
    return (
        f"budget {cost.name}={constraint.limit:.6g} {cost.unit} is out of reach: the smallest "
        f"network that can be cut has {least:.6g} {cost.unit} "
        f"({cost.bound(least, dense)}, the dense one has {dense:.6g}); raise the budget, lower "
        f"{spelt('min_keep')} or {spelt('round_to')}, or exclude fewer layers."
    )
