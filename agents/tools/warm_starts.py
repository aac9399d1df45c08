"""The candidates that a search begins with."""

from __future__ import annotations

from autoprune.agents.base import SearchProblem
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import least_loss

# Keep ratios of all groups that a search without a budget begins with.
DIAGONAL = (1.0, 0.75, 0.5, 0.25)
# Candidates of an earlier search that are looked at again: each is told, which takes a moment.
MOST_KNOWN = 200


def warm_starts(problem: SearchProblem) -> list[Widths]:
    """Return the candidates that are known before any search, each once.

    These are those of the problem, then the uniform candidate and, where the criterion gives
    errors, the one of least expected loss. Without a budget they are uniform ones from the dense
    network down. The candidates that an earlier search evaluated come last, as far as they are
    within the budget.
    """
    if not problem.projection.constraints:
        starts = [problem.projection.uniform(ratio) for ratio in DIAGONAL]
    else:
        starts = [problem.projection.uniform()]
        if all(ranking.errors is not None for ranking in problem.rankings):
            starts.append(least_loss(problem.projection, problem.rankings))
    earlier = [trial.candidate.widths for trial in problem.known[:MOST_KNOWN]]
    return list(
        dict.fromkeys([*problem.starts, *starts, *filter(problem.projection.fits, earlier)])
    )
