"""What the strategy of a search is given to work with."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.agents.base import SearchProblem
from autoprune.core.policy import Widths
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators, RepairKind
from autoprune.engine.problem import PruningProblem
from autoprune.search_spaces.group_features import describe
from autoprune.study.recorded_widths import widths_in


def default_trials(groups: int, repair: RepairKind) -> int:
    """Return how many evaluations a search of so many groups gets by default.

    Far fewer where candidates are repaired as a whole: that takes three times as long, and tells
    more.
    """
    least, each = (30, 1) if repair is RepairKind.QUICK else (40, 4)
    return min(max(least, each * groups), 400)


def search_problem(
    context: SearchContext, problem: PruningProblem, evaluators: Evaluators
) -> SearchProblem:
    """Return what the strategy is given to work with."""
    config = context.config
    return SearchProblem(
        space=problem.space,
        projection=problem.projection,
        costs=problem.costs,
        rankings=evaluators.builder.rankings,
        group_features=describe(problem.structure),
        trials=config.trials or default_trials(len(problem.space), evaluators.search_repair),
        seed=config.seed,
        at_once=context.at_once,
        starts=tuple(_start(problem, named) for named in context.starts),
    )


def _start(problem: PruningProblem, named: Mapping[str, int]) -> Widths:
    widths = widths_in(problem.space, named, "the run that the search begins at")
    return problem.projection.project(problem.space.ratios(widths))
