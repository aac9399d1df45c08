"""A search in the trackers of experiments that the user names: a point for every trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from autoprune.core.progress import Progress, SearchState
from autoprune.engine.context import SearchContext
from autoprune.training.loggers import Logger, make_loggers

# What trackers call the search among the trainings of a run.
TITLE = "search"


@contextmanager
def tracked(context: SearchContext) -> Iterator[Progress]:
    """Give a progress that also tells trackers of every trial.

    Trials that an interrupted search made are not told again: their points are there.

    Raises:
        UsageError: a tracker cannot begin.
    """
    config = context.config
    if not config.logger:
        yield context.progress
        return
    options = {"training": TITLE, **config.to_mapping()}
    with ExitStack() as stack:
        trackers = make_loggers(config.logger, context.run.path, options)
        for tracker in trackers:
            stack.callback(tracker.close)
        yield _Tracked(context.progress, trackers)


class _Tracked(Progress):
    """Passes all on, and tells trackers of every trial."""

    def __init__(self, progress: Progress, trackers: Sequence[Logger]) -> None:
        self._inner, self._trackers = progress, trackers
        self.stream = progress.stream

    def step(self, stage: str, done: int, total: int) -> None:
        """Pass it on."""
        self._inner.step(stage, done, total)

    def searched(self, state: SearchState) -> None:
        """Tell how the search stands after a trial; what is not known is left out."""
        self._inner.searched(state)
        figures = {
            "reward": state.value,
            "best_reward": state.best,
            "trials": state.done,
            "failed": state.failed,
            "evaluations_per_minute": state.per_minute,
            **{f"best_{cost}": share for cost, share in state.costs.items()},
        }
        known = {name: float(value) for name, value in figures.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(state.number, known)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._inner.note(text)
