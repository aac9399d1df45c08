"""The widths of a network decided layer by layer, as AMC does (He et al. 2018, section 3.2).

The state is nothing but the widths decided so far. Every observation is scale-free, so that an
agent that learnt on one network fits any other:

| index | name          | meaning                                                        | range  |
|-------|---------------|----------------------------------------------------------------|--------|
| 0     | depth         | place of the group among the groups, from first to last        | 0 to 1 |
| 1     | size          | log2 of the group's units / 12                                 | 0 to 1 |
| 2     | producers     | 1 - 1 / layers that make the channels (0: one)                 | 0 to 1 |
| 3     | consumers     | 1 - 1 / layers that read them                                  | 0 to 1 |
| 4     | depthwise     | whether a depthwise or grouped convolution is among the makers | 0, 1   |
| 5     | linear        | whether a linear layer reads them                              | 0, 1   |
| 6     | kernel        | log2 of the taps of the largest producer's kernel / 6          | 0 to 1 |
| 7     | stride        | log2 of its stride over all dimensions / 4                     | 0 to 1 |
| 8     | resolution    | root of its output positions as a share of the network's most  | 0 to 1 |
| 9     | cost          | cost that the group alone can save, as a share of the largest  | 0 to 1 |
| 10    | reduced       | cost saved by the groups decided so far / dense cost           | 0 to 1 |
| 11    | rest          | cost that the groups left can save at most / dense cost        | 0 to 1 |
| 12    | needed        | cost still to be saved / what the groups left can save         | 0 to 1 |
| 13    | planned       | keep ratio in the plan of least expected loss, by one          | 0 to 1 |
|       |               | factor for all groups left brought onto what is left to spend  |        |
|       |               | (0.5 without a budget)                                         |        |
| 14    | last          | keep ratio of the group before (1 at the start)                | 0 to 1 |
| 15-17 | error25,50,75 | reconstruction error with that percentage of the units kept,   | 0 to 1 |
|       |               | on a log scale from 1e-4 to 1 (1 where no errors are known)    |        |
| 18-19 | low, high     | feasible range of the keep ratio (`Episode.allowed`)           | 0 to 1 |
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.importance.base import Ranking
from autoprune.search_spaces.greedy import least_loss
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace, with_width
from autoprune.search_spaces.projection import Projection

FEATURES = (
    *("depth", "size", "producers", "consumers", "depthwise", "linear", "kernel", "stride"),
    *("resolution", "cost", "reduced", "rest", "needed", "planned", "last"),
    *("error25", "error50", "error75", "low", "high"),
)
_KEPT = (0.25, 0.5, 0.75)
_LEAST_ERROR = 1e-4
_BISECTIONS = 14
# The planned keep ratio where there is no budget.
UNPLANNED = 0.5


@dataclass(frozen=True, eq=False)
class Step:
    """One decision.

    Attributes:
        observation: before it.
        ratio: the keep ratio that was executed, rounded and within the feasible range.
    """

    observation: Float64[np.ndarray, " features"]
    ratio: float


class Episode:
    """The rules of deciding one group after the other, first to last.

    Attributes:
        savings: cost that each group alone can save, as a share of the largest.
    """

    def __init__(
        self,
        space: SearchSpace,
        projection: Projection,
        costs: Sequence[CostModel],
        group_features: Sequence[GroupFeatures],
        rankings: Sequence[Ranking],
    ) -> None:
        """Describe the groups.

        Args:
            space: allowed widths.
            projection: the budget.
            costs: those that count where there is no budget; otherwise the budget's costs do.
            group_features: of the groups.
            rankings: of the groups' units.
        """
        self._space = space
        self._projection = projection
        self._costs = [bound.cost for bound in projection.constraints] or list(costs)
        self._rankings = rankings
        self._dense = [cost.total(space.sizes) for cost in self._costs]
        savings = np.array([self._saving(group) for group in range(len(space))])
        largest = max(savings.max(initial=0.0), 1e-12)
        self.savings: Float64[np.ndarray, " groups"] = savings / largest
        self._fixed = self._describe(group_features, rankings)

    def __len__(self) -> int:
        return len(self._space)

    def allowed(self, decided: Widths) -> Int64[np.ndarray, " widths"]:
        """Return the widths of the next group with which the budget can be met and spent.

        This is the feasible range by the exact cost models: a width is too wide if the groups after
        it exceed the budget even at their narrowest, and too narrow if a wider one would fit with
        all of them whole.
        """
        group = len(decided)
        levels = self._space.levels[group]
        if not self._projection.constraints:
            return levels
        narrow, whole = self._space.lowest[group + 1 :], self._space.sizes[group + 1 :]
        reachable, spare = self._fitting(decided, narrow), self._fitting(decided, whole)
        # Something is always reachable: every width before was chosen so that the lowest is.
        able = reachable if len(reachable) else levels[:1]
        worthy = able[able >= spare.max(initial=0)]
        return worthy if len(worthy) else able[-1:]

    def _fitting(self, decided: Widths, rest: Widths) -> Int64[np.ndarray, " widths"]:
        """Return the widths of the next group that fit with the given rest.

        A measured cost need not fall with the width: then every width has to be tried.
        """
        levels, fits = self._space.levels[len(decided)], self._projection.fits
        if not self._projection.is_monotone:
            return levels[[fits((*decided, int(width), *rest)) for width in levels]]
        exceeding = bisect.bisect_left(
            levels.tolist(), True, key=lambda width: not fits((*decided, width, *rest))
        )
        return levels[:exceeding]

    def execute(self, decided: Widths, ratio: float) -> Widths:
        """Decide the next group: the allowed width nearest to the wanted keep ratio."""
        allowed = self.allowed(decided)
        wanted = ratio * self._space.sizes[len(decided)]
        return (*decided, int(allowed[np.abs(allowed - wanted).argmin()]))

    def ratio(self, group: int, width: int) -> float:
        """Return a group's keep ratio."""
        return width / self._space.sizes[group]

    def finish(self, widths: Widths) -> Widths:
        """Spend what is left of the budget: all keep ratios grow by one factor."""
        return self._projection.project(self._space.ratios(widths))

    def walk(self, widths: Widths) -> list[Step]:
        """Return the episode that decides the given widths."""
        ratios = self._space.ratios(widths)
        return [Step(self.observe(widths[:t]), float(ratios[t])) for t in range(len(widths))]

    def observe(self, decided: Widths) -> Float64[np.ndarray, " features"]:
        """Return what is known before the next decision."""
        group = len(decided)
        after = self._space.lowest[group:]
        reduced = self._shares((*decided, *self._space.sizes[group:]))
        least = self._shares((*decided, *after))
        limits = [
            bound.limit / dense
            for bound, dense in zip(self._projection.constraints, self._dense, strict=False)
        ] or [1.0] * len(reduced)
        rest = reduced - least
        needed = np.clip((reduced - limits) / np.maximum(rest, 1e-9), 0.0, 1.0)
        last = decided[-1] / self._space.sizes[group - 1] if decided else 1.0
        dynamic = [
            *(float((1 - reduced).mean()), float(rest.mean()), float(needed.max())),
            *(self._planned(decided), last),
        ]
        fixed = self._fixed[group]
        feasible = self.allowed(decided)[[0, -1]] / self._space.sizes[group]
        return np.concatenate([fixed[:10], dynamic, fixed[10:], feasible]).clip(0.0, 1.0)

    def _shares(self, widths: Widths) -> Float64[np.ndarray, " costs"]:
        """Return the costs as shares of the dense network's."""
        costs = np.array([cost.total(widths) for cost in self._costs])
        return costs / np.maximum(self._dense, 1e-12)

    @cached_property
    def _plan(self) -> Float64[np.ndarray, " groups"]:
        """Keep ratios of least loss; alike where errors of some group are not known."""
        if any(ranking.errors is None for ranking in self._rankings):
            return np.ones(len(self))
        return self._space.ratios_above_zero(least_loss(self._projection, self._rankings))

    def _planned(self, decided: Widths) -> float:
        if not self._projection.constraints:
            return UNPLANNED
        group = len(decided)
        sizes = np.array(self._space.sizes)
        low, high = 0.0, 1 / float(self._plan.min())
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            rest = self._space.round_down((middle * self._plan).clip(0.0, 1.0) * sizes)[group:]
            fits = self._projection.fits((*decided, *rest))
            low, high = (middle, high) if fits else (low, middle)
        return min(high * float(self._plan[group]), 1.0)

    def _describe(
        self, group_features: Sequence[GroupFeatures], rankings: Sequence[Ranking]
    ) -> Float64[np.ndarray, "groups fixed"]:
        """Return what is observed of the groups whatever was decided."""
        last = max(len(self) - 1, 1)
        rows = [
            [
                group / last,
                math.log2(self._space.sizes[group]) / 12,
                1 - 1 / max(one.producers, 1),
                1 - 1 / max(one.consumers, 1),
                float(one.depthwise),
                float(one.linear),
                math.log2(one.kernel) / 6,
                math.log2(one.stride) / 4,
                math.sqrt(one.positions),
                self.savings[group],
                *_errors(rankings[group]),
            ]
            for group, one in enumerate(group_features)
        ]
        return np.array(rows)

    def _saving(self, group: int) -> float:
        alone = with_width(self._space.sizes, group, self._space.lowest[group])
        return float((1 - self._shares(alone)).mean())


def _errors(ranking: Ranking) -> list[float]:
    if ranking.errors is None:
        return [1.0] * len(_KEPT)
    units = len(ranking.errors) - 1
    errors = [max(ranking.errors[round(kept * units)], _LEAST_ERROR) for kept in _KEPT]
    return [1 - math.log10(min(error, 1.0)) / math.log10(_LEAST_ERROR) for error in errors]
