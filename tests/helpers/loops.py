"""What tests of the search loop share: a space, a problem, and an evaluation of no time."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.agents.base import SearchProblem
from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.importance import Ranking
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Constraint, Projection

SIZES = (9, 9, 9)
SPACE = SearchSpace(("a", "b", "c"), SIZES, (1, 1, 1))


class SumCost(CostModel):
    name = "flops"
    unit = "MACs"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return dict(zip("abc", map(float, widths), strict=True))


def problem(trials: int = 10, seed: int = 0, workers: int = 1) -> SearchProblem:
    projection = Projection(SPACE, [Constraint(SumCost(), 15.0)])
    errors = tuple((1 - w / 9) ** 2 for w in range(10))
    rankings = [Ranking(tuple(range(9)), errors)] * 3
    return SearchProblem(
        space=SPACE,
        projection=projection,
        costs={"flops": SumCost()},
        rankings=rankings,
        group_features=[GroupFeatures()] * 3,
        trials=trials,
        seed=seed,
        workers=workers,
    )


def measurement(widths: Widths) -> Measurement:
    costs = {"flops": float(sum(widths))}
    kl = float(sum((w - goal) ** 2 for w, goal in zip(widths, (8, 4, 2), strict=True)))
    return Measurement(
        widths,
        SPACE.names,
        Scores(kl=kl, soft_kl=kl),
        Scores(kl=0.0, soft_kl=0.0),
        costs,
        costs,
        {},
    )


def reward(found: Measurement) -> float:
    assert found.scores.kl is not None
    return -found.scores.kl
