"""What tests of the search loop share: a space, a problem, and an evaluation of no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.engine.executors import LocalExecutor, Pending
from autoprune.engine.loop import LoopLimits, LoopReport, Record, run_loop
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.importance import Ranking
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.trial import Candidate

SIZES = (9, 9, 9)
SPACE = SearchSpace(("a", "b", "c"), SIZES, (1, 1, 1))


class SumCost(CostModel):
    name = "flops"
    unit = "MACs"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return dict(zip("abc", map(float, widths), strict=True))


def problem(trials: int = 10, seed: int = 0, at_once: int = 1) -> SearchProblem:
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
        at_once=at_once,
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


def run_in_threads(
    strategy: Strategy,
    measure: Callable[[Candidate, Widths | None], Callable[[], Measurement]],
    record: Record,
    limits: LoopLimits,
    timeout: float | None = None,
) -> LoopReport:
    """Run the loop with a thread for each candidate that is on its way."""
    with LocalExecutor(None, limits.at_once).opened(timeout) as submit:

        def evaluate(
            candidate: Candidate, incumbent: Widths | None, alone: bool
        ) -> Pending[Measurement]:
            evaluation = measure(candidate, incumbent)
            return submit(lambda nothing: evaluation(), alone=alone)

        return run_loop(strategy, evaluate, record, limits)
