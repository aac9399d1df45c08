"""What a Ray executor does with what its workers bring, with Ray's calls played by plain ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.engine import ray_executor
from autoprune.engine.ray_executor import RayExecutor


@dataclass(frozen=True, eq=False)
class Reference:
    """Of what is done already."""

    outcome: Any


@dataclass(frozen=True, eq=False)
class Actor:
    """Does things in this process."""

    begin: Any
    do: Any


class Played:
    """A cluster whose workers do at once whatever they are given.

    Attributes:
        keeps: whether what they found is not there yet.
        killed: actors.
    """

    def __init__(self) -> None:
        self.keeps = True
        self.killed: list[Any] = []
        self.ray = SimpleNamespace(
            wait=self._wait,
            get=lambda reference: reference.outcome,
            kill=self.killed.append,
            exceptions=SimpleNamespace(RayTaskError=RuntimeError, RayError=RuntimeError),
        )

    def place(self, subject: Any) -> Any:
        return subject

    def actor_class(self, plain: type) -> Any:
        def called(own: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *given: Reference(own(*given)))

        def begun() -> Any:
            subject: list[Any] = []
            return Actor(
                begin=called(lambda placed, _: subject.append(placed)),
                do=called(lambda work: work(subject[0])),
            )

        return SimpleNamespace(remote=begun)

    def _wait(
        self, references: list[Any], num_returns: int, timeout: float | None
    ) -> tuple[list[Any], list[Any]]:
        done = [one for one in references if one.outcome is None or not self.keeps]
        return done[:num_returns], []


def test_what_is_done_is_taken_though_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    cluster: Any = Played()
    executor = RayExecutor(cluster, 10, workers=3)
    with executor.opened(timeout=5.0) as submit:
        pending = [submit(lambda subject, own=own: subject + own) for own in range(3)]
        now[0], cluster.keeps = 9.0, False  # this process was busy meanwhile
        assert [one() for one in pending] == [10, 11, 12]
    assert not cluster.killed
