"""Strategies that ask for one candidate."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from autoprune.agents.base import Strategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.trial import Candidate


class OneCandidate(Strategy):
    """Asks for the widths that a subclass takes from the search space."""

    def start(self, problem: Any) -> None:
        self._asked = False

    def ask(self) -> Candidate | None:
        if self._asked:
            return None
        self._asked = True
        return Candidate(self.widths(self.problem.space))

    @abstractmethod
    def widths(self, space: SearchSpace) -> Widths:
        """Return the widths of the candidate."""
