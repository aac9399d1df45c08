"""Strategies that are written down as the course of their questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from autoprune.policy import Widths
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial


class CourseStrategy(Strategy):
    """Asks what a generator yields; when that goes on, its last question is answered.

    A question that was asked before, of the same kind, is passed over.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._values: dict[Widths, float] = {}
        self._asked: set[Candidate] = set()
        self._questions = self._course()

    @abstractmethod
    def _course(self) -> Iterator[Candidate]:
        """Yield every question; `self._values` holds what was answered, failures left out."""

    def ask(self) -> Candidate | None:
        """Return the next new question, None at the end of the course."""
        for candidate in self._questions:
            if candidate not in self._asked:
                self._asked.add(candidate)
                return candidate
        return None

    def tell(self, trial: Trial) -> None:
        """Remember the value."""
        if trial.value is not None:
            self._values[trial.candidate.widths] = trial.value
