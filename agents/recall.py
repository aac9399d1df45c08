"""No new search: what an earlier run passed on its way, brought onto another budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.tools.scripted import CourseStrategy
from autoprune.core.policy import Widths
from autoprune.errors import RunError
from autoprune.study.result import frontier_of
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Candidate

# Policies of the frontier that are measured at the new budget.
NEAREST = 5


class RecallStrategy(CourseStrategy):
    """Projects the nearest policies of another run's frontier onto the budget, and measures those.

    A run of `netadapt` leaves a policy near every budget from the dense network down to its own;
    other strategies leave few besides their last ones.
    """

    name: ClassVar[str] = "recall"
    options: ClassVar[tuple[str, ...]] = ("from_run",)

    def __init__(self, problem: SearchProblem, from_run: str) -> None:
        """Read the run's frontier.

        Raises:
            RunError: the run is unfinished, damaged or of another network.
        """
        super().__init__(problem)
        recorded = [_widths(entry, problem, from_run) for entry in _frontier(from_run)]
        ways = {problem.projection.project(problem.space.ratios(w)): w for w in recorded}
        nearest = sorted(ways, key=lambda widths: self._distance(widths, ways[widths]))
        self._nearest = nearest[:NEAREST]

    @classmethod
    def check_options(cls, from_run: str | None = None, **options: Any) -> None:
        """Refuse a run that holds no frontier.

        Raises:
            RunError: with the reason.
        """
        super().check_options(**options)
        if from_run is None:
            raise RunError("the strategy 'recall' needs a run to recall: give --from RUN.")
        _frontier(from_run)

    def _course(self) -> Iterator[Iterable[Candidate]]:
        yield map(Candidate, self._nearest)

    def _distance(self, widths: Widths, recorded: Widths) -> float:
        ratios = self.problem.space.ratios
        return float(np.abs(np.log(ratios(widths) / ratios(recorded))).mean())


def _frontier(run: str) -> tuple[dict[str, int], ...]:
    frontier = frontier_of(RunDirectory(Path(run)))
    if not frontier:
        raise RunError(f"the run in {run!r} left no frontier to recall.")
    return frontier


def _widths(widths: Mapping[str, int], problem: SearchProblem, run: str) -> Widths:
    names, sizes = problem.space.names, problem.space.sizes
    fits = set(widths) == set(names) and all(
        widths[name] <= size for name, size in zip(names, sizes, strict=True)
    )
    if not fits:
        raise RunError(f"the run in {run!r} is of another network or pruned other groups.")
    return tuple(widths[name] for name in names)
