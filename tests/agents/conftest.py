"""Small problems whose answers can be enumerated, and a loop that plays strategies on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pytest

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


class ChainCost(CostModel):
    """Bilinear: every layer costs its input width times its output width."""

    name = "flops"
    unit = "MACs"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        lengths = [3, *widths, 10]
        return {str(i): float(a * b) for i, (a, b) in enumerate(itertools.pairwise(lengths))}


class WidestCost(CostModel):
    """A maximum, as of peak memory: most single steps save nothing."""

    name = "memory"
    unit = "bytes"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return {"widest": float(max(widths))}


class StairCost(CostModel):
    """As latency is measured: an odd width is slower than the next even one."""

    name = "latency"
    unit = "ms"
    is_monotone = False

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return {str(i): w + 3.0 * (w % 2) for i, w in enumerate(widths)}


@dataclass(frozen=True, eq=False)
class Toy:
    """A problem with a separable objective: minus the sum of the groups' error curves."""

    problem: SearchProblem
    curves: Sequence[Sequence[float]]

    def value(self, widths: Widths) -> float:
        return -sum(float(curve[w]) for curve, w in zip(self.curves, widths, strict=True))

    def candidates(self) -> list[Widths]:
        """Every allowed vector of widths within the budget."""
        everything = itertools.product(*(map(int, one) for one in self.problem.space.levels))
        return [widths for widths in everything if self.problem.projection.fits(widths)]

    def optimum(self) -> float:
        return max(map(self.value, self.candidates()))


Answer: TypeAlias = Callable[[Widths], float | None]
MakeToy: TypeAlias = Callable[..., Toy]
Play: TypeAlias = Callable[[Strategy, Answer, int], list[Trial]]


@pytest.fixture(scope="session")
def make_toy() -> MakeToy:
    def make(
        sizes: Sequence[int],
        *,
        step: int = 1,
        keep: float = 0.5,
        costs: Sequence[CostModel] = (),
        has_errors: bool = True,
        seed: int = 0,
        trials: int = 30,
        bounded: bool = True,
    ) -> Toy:
        names = tuple(f"layer{i}" for i in range(len(sizes)))
        space = SearchSpace(names, tuple(sizes), tuple(min(step, s) for s in sizes), step)
        models = {cost.name: cost for cost in costs or [ChainCost()]}
        bounds = [Constraint(cost, keep * cost.total(space.sizes)) for cost in models.values()]
        curves = [
            (weight * (1 - np.arange(size + 1) / size) ** power).tolist()
            for size, (weight, power) in zip(sizes, itertools.cycle(CURVES), strict=False)
        ]
        rankings = [
            Ranking(tuple(range(len(c) - 1)), tuple(c) if has_errors else None) for c in curves
        ]
        return Toy(
            SearchProblem(
                space=space,
                projection=Projection(space, bounds if bounded else []),
                costs=models,
                rankings=rankings,
                group_features=[GroupFeatures()] * len(sizes),
                trials=trials,
                seed=seed,
            ),
            curves,
        )

    return make


@pytest.fixture(scope="session")
def widest() -> CostModel:
    return WidestCost()


@pytest.fixture(scope="session")
def chain() -> CostModel:
    return ChainCost()


@pytest.fixture(scope="session")
def stairs() -> CostModel:
    return StairCost()


@pytest.fixture(
    scope="module",
    params=["step 1", "step 4", "two bounds", "stairs", "one group", "nothing to choose"],
)
def toy(request: pytest.FixtureRequest, make_toy: MakeToy) -> Toy:
    """Every kind of problem that a strategy has to get along with."""
    return {
        "step 1": lambda: make_toy([12, 7, 9]),
        "step 4": lambda: make_toy([16, 10, 8, 4], step=4, keep=0.6),
        "stairs": lambda: make_toy([16, 10, 8], costs=[StairCost(), ChainCost()], keep=0.6),
        "two bounds": lambda: make_toy([8, 8, 8], costs=[ChainCost(), WidestCost()], keep=0.7),
        "one group": lambda: make_toy([20], keep=0.8),
        "nothing to choose": lambda: make_toy([8, 8], step=8, keep=1.0),
    }[request.param]()


@pytest.fixture(scope="session")
def play() -> Play:
    """Ask and tell in strict alternation; known widths are answered from the record."""

    def rounds_of(strategy: Strategy, answer: Answer, rounds: int) -> Iterator[Trial]:
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

    def run(strategy: Strategy, answer: Answer, rounds: int) -> list[Trial]:
        return list(rounds_of(strategy, answer, rounds))

    return run


@pytest.fixture(scope="session")
def taught(make_toy: MakeToy, play: Play, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where an agent is that learnt a few episodes on a network of four groups: an odd taste."""
    from autoprune.agents.ddpg.agent import DdpgStrategy

    folder = tmp_path_factory.mktemp("taught")
    toy = make_toy([9, 14, 12, 8], seed=3)
    teacher = DdpgStrategy(updates=20).started(toy.problem)
    play(teacher, lambda widths: float(widths[2] - widths[0]), 12)
    teacher.save(folder)
    return str(folder)
