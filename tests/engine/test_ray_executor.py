"""What a Ray executor does with what its workers bring, with Ray's calls played by plain ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.engine import ray_executor
from autoprune.engine.ray_executor import RayExecutor
from autoprune.errors import WorkerError

WAITS = object()
"""The outcome of what waits for room."""


class Died(Exception):
    """A worker died."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Of what is done already; of a worker that died, the error."""

    outcome: Any

    def get(self) -> Any:
        if isinstance(self.outcome, Died):
            raise self.outcome
        return self.outcome


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
        begun: how many actors there have been.
        room: number of the last one that there is room for.
        lost: numbers of those whose node is gone.
    """

    def __init__(self) -> None:
        self.keeps = True
        self.killed: list[Any] = []
        self.begun, self.room, self.lost = 0, 100, range(0)
        self.ray = SimpleNamespace(
            wait=self._wait,
            get=Reference.get,
            kill=self.killed.append,
            exceptions=SimpleNamespace(RayTaskError=RuntimeError, RayError=Died),
        )

    def place(self, subject: Any) -> Any:
        return subject

    def actor_class(self, plain: type) -> Any:
        def called(number: int, own: Callable[..., Any]) -> Any:
            def remote(*given: Any) -> Reference:
                if number > self.room:
                    return Reference(WAITS)
                return Reference(Died() if number in self.lost else own(*given))

            return SimpleNamespace(remote=remote)

        def begun() -> Any:
            subject: list[Any] = []
            self.begun += 1
            return Actor(
                begin=called(self.begun, lambda placed, _: subject.append(placed)),
                do=called(self.begun, lambda work: work(subject[0])),
            )

        return SimpleNamespace(remote=begun)

    def _wait(
        self, references: list[Any], num_returns: int, timeout: float | None
    ) -> tuple[list[Any], list[Any]]:
        done = [one for one in references if one.outcome is None or not self.keeps]
        return [one for one in done if one.outcome is not WAITS][:num_returns], []


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


def test_idle_workers_that_their_node_took_along_fail_no_work() -> None:
    cluster: Any = Played()
    cluster.keeps, cluster.room = False, 8
    executor = RayExecutor(cluster, 10, workers=8)
    with executor.opened() as submit:
        assert submit(lambda subject: subject)() == 10  # all have begun
        cluster.lost = range(5, 9)
        assert submit(lambda subject: subject + 1)() == 11
    assert cluster.begun == 8 + 4


def test_work_that_kills_every_worker_is_given_up() -> None:
    cluster: Any = Played()
    cluster.keeps = False
    executor = RayExecutor(cluster, 10, workers=2)
    with executor.opened() as submit, pytest.raises(WorkerError, match="3 workers in a row died"):
        submit(lambda subject: Died())()
