"""No new search: what an earlier run passed on its way, brought onto another budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.errors import RunError, spelt
from autoprune.study.recorded_widths import widths_in
from autoprune.study.result import frontier_of
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class RecallConfig:
    """Options of recalling a run.

    Attributes:
        from_run: the run directory whose frontier is recalled.
        nearest: policies of the frontier that are measured at the new budget.
    """

    from_run: str | None = None
    nearest: Count = 5


class RecallStrategy(ScriptedStrategy):
    """Projects the nearest policies of another run's frontier onto the budget, and measures those.

    A run of `netadapt` leaves a policy near every budget from the dense network down to its own;
    other strategies leave few besides their last ones.
    """

    name = "recall"
    # Its trials are few and far apart: more finalists cost more than everything before them.
    finalists = 1
    config = RecallConfig()

    def check(self) -> None:
        """Refuse a run that holds no frontier.

        Raises:
            RunError: with the reason.
        """
        self._frontier()

    def start(self, problem: SearchProblem) -> None:
        """Read the run's frontier.

        Raises:
            RunError: the run is unfinished, damaged or of another network.
        """
        super().start(problem)
        run, frontier = self._frontier()
        recorded = [widths_in(problem.space, one, f"the run in {run!r}") for one in frontier]
        ways = {problem.projection.project(problem.space.ratios(w)): w for w in recorded}
        nearest = sorted(ways, key=lambda widths: problem.space.distance(widths, ways[widths]))
        self._nearest = nearest[: self.config.nearest]

    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield the nearest policies."""
        yield map(Candidate, self._nearest)

    def _frontier(self) -> tuple[str, tuple[dict[str, int], ...]]:
        run = self.config.from_run
        if run is None:
            raise RunError(
                f"the strategy 'recall' needs a run to recall: give {spelt('from_run')}."
            )
        frontier = frontier_of(RunDirectory(Path(run)))
        if not frontier:
            raise RunError(f"the run in {run!r} left no frontier to recall.")
        return run, frontier
