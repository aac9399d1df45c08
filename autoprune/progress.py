"""How long work tells what it is doing; silent unless somebody listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchState:
    """Where a search stands after a trial.

    Attributes:
        done: evaluations so far.
        total: evaluations planned.
        best: best reward so far, None if there is none.
        detail: the last trial in words.
    """

    done: int
    total: int
    best: float | None
    detail: str


class Progress:
    """Receives news of long work; this one ignores them."""

    def step(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage has come."""

    def searched(self, state: SearchState) -> None:
        """Say that a trial is finished."""

    def note(self, text: str) -> None:
        """Say something once."""
