"""Small search problems with enumerable answers, and a loop that runs strategies on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.importance import Ranking
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.trial import Trial

# Weight and power of each group's error curve: weight x (1 - keep ratio)^power.
CURVES = ((1.0, 2.0), (8.0, 2.0), (0.1, 3.0), (3.0, 2.0))

Answer: TypeAlias = Callable[[Widths], float | None]
"""Value of a candidate; None for an evaluation that fails."""


class ChainCost(CostModel):
    """A bilinear cost: every layer costs its input width times its output width."""

    name = "flops"
    unit = "MACs"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of every layer."""
        lengths = [3, *widths, 10]
        return {str(i): float(a * b) for i, (a, b) in enumerate(itertools.pairwise(lengths))}


class WidestCost(CostModel):
    """A maximum, such as peak memory: most single steps save nothing."""

    name = "memory"
    unit = "bytes"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of the widest layer."""
        return {"widest": float(max(widths))}


class StairCost(CostModel):
    """A cost like measured latency: an odd width is slower than the next even one."""

    name = "latency"
    unit = "ms"
    is_monotone = False

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of every layer."""
        return {str(i): w + 3.0 * (w % 2) for i, w in enumerate(widths)}


class CallCost(CostModel):
    """A cost like latency that is bound by calls: a layer takes long at any width but zero."""

    name = "latency"
    unit = "ms"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of every layer."""
        return {str(i): (20.0 + w) * (w > 0) for i, w in enumerate(widths)}


@dataclass(frozen=True, eq=False)
class Toy:
    """A problem with a separable objective: minus the sum of the groups' error curves."""

    problem: SearchProblem
    curves: Sequence[Sequence[float]]

    def value(self, widths: Widths) -> float:
        """Return the objective."""
        return -sum(float(curve[w]) for curve, w in zip(self.curves, widths, strict=True))

    def candidates(self) -> list[Widths]:
        """Return every allowed vector of widths within the budget."""
        everything = itertools.product(*(map(int, one) for one in self.problem.space.levels))
        return [widths for widths in everything if self.problem.projection.fits(widths)]

    def optimum(self) -> float:
        """Return the largest objective within the budget."""
        return max(map(self.value, self.candidates()))


@dataclass(frozen=True)
class Setting:
    """Options of a toy problem.

    Attributes:
        step: widths are multiples of it.
        keep: bound of every cost, as a fraction of the dense network's.
        costs: cost models with a bound; `ChainCost` if empty.
        has_errors: whether the rankings have error curves.
        seed, trials: as in `SearchProblem`.
        bounded: whether there is a budget.
        can_go: places of groups that may have no units at all.
    """

    step: int = 1
    keep: float = 0.5
    costs: Sequence[CostModel] = ()
    has_errors: bool = True
    seed: int = 0
    trials: int = 30
    bounded: bool = True
    can_go: tuple[int, ...] = ()


def make_toy(sizes: Sequence[int], setting: Setting = Setting()) -> Toy:
    """Return a problem with one group per size.

    Args:
        sizes: units per group.
        setting: options.
    """
    names = tuple(f"layer{i}" for i in range(len(sizes)))
    fewest = tuple(min(setting.step, size) for size in sizes)
    lowest = tuple(0 if i in setting.can_go else few for i, few in enumerate(fewest))
    space = SearchSpace(names, tuple(sizes), lowest, setting.step, fewest)
    models = {cost.name: cost for cost in setting.costs or [ChainCost()]}
    bounds = [Constraint(cost, setting.keep * cost.total(space.sizes)) for cost in models.values()]
    curves = [
        (weight * (1 - np.arange(size + 1) / size) ** power).tolist()
        for size, (weight, power) in zip(sizes, itertools.cycle(CURVES), strict=False)
    ]
    rankings = [
        Ranking(tuple(range(len(c) - 1)), tuple(c) if setting.has_errors else None) for c in curves
    ]
    problem = SearchProblem(
        space=space,
        projection=Projection(space, bounds if setting.bounded else []),
        costs=models,
        rankings=rankings,
        group_features=[GroupFeatures()] * len(sizes),
        trials=setting.trials,
        seed=setting.seed,
    )
    return Toy(problem, curves)


PROBLEMS: Mapping[str, Callable[[], Toy]] = {
    "step 1": lambda: make_toy([12, 7, 9]),
    "step 4": lambda: make_toy([16, 10, 8, 4], Setting(step=4, keep=0.6)),
    "two bounds": lambda: make_toy([8, 8, 8], Setting(costs=[ChainCost(), WidestCost()], keep=0.7)),
    "stairs": lambda: make_toy([16, 10, 8], Setting(costs=[StairCost(), ChainCost()], keep=0.6)),
    "branches": lambda: make_toy([12, 10, 8], Setting(costs=[CallCost()], keep=0.5, can_go=(1, 2))),
    "one group": lambda: make_toy([20], Setting(keep=0.8)),
    "nothing to choose": lambda: make_toy([8, 8], Setting(step=8, keep=1.0)),
}
"""Every kind of problem that a strategy has to solve."""


def play(strategy: Strategy, answer: Answer, rounds: int) -> list[Trial]:
    """Ask and tell in strict alternation; widths that were proposed before keep their answer.

    Args:
        strategy: the strategy.
        answer: evaluates widths.
        rounds: number of candidates to ask for; a strategy may stop earlier.
    """
    return list(_rounds(strategy, answer, rounds))


def _rounds(strategy: Strategy, answer: Answer, rounds: int) -> Iterator[Trial]:
    record: dict[Widths, Trial] = {}
    for _ in range(rounds):
        candidate = strategy.ask()
        if candidate is None:
            return
        widths = candidate.widths
        if widths not in record:
            record[widths] = Trial(candidate, answer(widths))
        trial = replace(record[widths], candidate=candidate)
        strategy.tell(trial)
        yield trial
