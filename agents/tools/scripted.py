"""Strategies that are written as a generator of batches of candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate, Trial


class ScriptedStrategy(Strategy):
    """Proposes what a generator yields, batch after batch.

    The generator goes on once all candidates of its last batch have been evaluated. A candidate
    that was proposed before, and of the same kind, is left out.
    """

    def start(self, problem: SearchProblem) -> None:
        """Begin with the first batch."""
        self._values: dict[Widths, float] = {}
        self._asked: set[Candidate] = set()
        self._upcoming = self._one_by_one()

    @abstractmethod
    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield all candidates, in batches of those that do not depend on each other's values.

        `self._values` holds the values so far, failures left out.
        """

    def ask(self) -> Candidate | None:
        """Return the next new candidate, None at the end."""
        return next(self._upcoming, None)

    def _one_by_one(self) -> Iterator[Candidate]:
        for batch in self.batches():
            new = self._new(batch)
            candidate = next(new, None)
            while candidate is not None:
                following = next(new, None)
                yield replace(candidate, awaited=following is None)
                candidate = following

    def _new(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        for candidate in candidates:
            if candidate not in self._asked:
                self._asked.add(candidate)
                yield candidate

    def tell(self, trial: Trial) -> None:
        """Remember the value."""
        if trial.value is not None:
            self._values[trial.candidate.widths] = trial.value
