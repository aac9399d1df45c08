"""Strategies that are written down as the course of their questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate, Trial


class CourseStrategy(Strategy):
    """Asks what a generator yields; when that goes on, its last questions are answered.

    A question that was asked before, of the same kind, is passed over.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._values: dict[Widths, float] = {}
        self._asked: set[Candidate] = set()
        self._questions = self._one_by_one()

    @abstractmethod
    def _course(self) -> Iterator[Iterable[Candidate]]:
        """Yield all questions, together those that do not depend on each other's answers.

        `self._values` holds what was answered, failures left out.
        """

    def ask(self) -> Candidate | None:
        """Return the next new question, None at the end of the course."""
        return next(self._questions, None)

    def _one_by_one(self) -> Iterator[Candidate]:
        for together in self._course():
            new = self._new(together)
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
