"""The contract of executors, kept by threads and by Ray's actors; faults of actors."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.engine.executors import Executor, LocalExecutor, in_order
from autoprune.errors import EvaluateError, UsageError, WorkerError

needs_ray = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
SUBJECT = 10
Make = Callable[..., Executor[Any]]


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[Make]:
    """Two processor cores, whatever this machine has."""
    import ray

    from autoprune.engine.ray_cluster import Cluster
    from autoprune.engine.ray_executor import RayExecutor

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    opened = []

    def make(subject: Any = SUBJECT, workers: int = 2) -> Executor[Any]:
        for one in opened:
            one.close()
        opened.append(RayExecutor(Cluster(ray, 0.0), subject, workers))
        return opened[-1]

    yield make
    ray.shutdown()


@pytest.fixture(
    params=[
        "here",
        "threads",
        pytest.param("ray", marks=needs_ray),
        pytest.param("ray 1", marks=needs_ray),
    ]
)
def executor(request: pytest.FixtureRequest) -> Executor[Any]:
    if request.param == "here":
        return LocalExecutor(SUBJECT)
    if request.param == "threads":
        return LocalExecutor(SUBJECT, 2)
    make = request.getfixturevalue("ray_executor")
    made: Executor[Any] = make(workers=1 if request.param == "ray 1" else 2)
    return made


def test_results_come_in_the_order_of_asking(executor: Executor[Any]) -> None:
    """The first piece takes longest, and there are more pieces than workers."""

    def work(number: int) -> Callable[[int], int]:
        def do(subject: int) -> int:
            time.sleep(0.2 if number == 0 else 0.0)
            return subject * number

        return do

    with executor.opened() as submit:
        pending = [submit(work(number)) for number in range(6)]
        assert [wait() for wait in pending] == [0, 10, 20, 30, 40, 50]


def test_a_result_can_be_had_twice_or_late(executor: Executor[Any]) -> None:
    with executor.opened() as submit:
        first, second = submit(lambda subject: subject), submit(lambda subject: subject + 1)
        assert (second(), first(), second()) == (11, 10, 11)


@pytest.mark.parametrize("alone", [False, True])
def test_errors_are_those_of_the_work(executor: Executor[Any], alone: bool) -> None:
    def refuse(subject: int) -> int:
        raise EvaluateError(f"no score for {subject}")

    def overflow(subject: int) -> int:
        raise MemoryError("too large")

    with executor.opened() as submit:
        refused, overflown = submit(refuse, alone=alone), submit(overflow, alone=alone)
        with pytest.raises(EvaluateError, match=r"^no score for 10$"):
            refused()
        with pytest.raises(MemoryError, match=r"^too large$"):
            overflown()
        assert submit(lambda subject: subject, alone=alone)() == 10


def test_work_that_takes_too_long_fails_alone(executor: Executor[Any]) -> None:
    def hang(subject: int) -> int:
        while True:
            pass

    with executor.opened(timeout=1.0) as submit:
        hanging, fine = submit(hang), submit(lambda subject: subject)
        with pytest.raises(TimeoutError, match=r"^took longer than 1 s$"):
            hanging()
        assert fine() == 10


def test_work_is_begun_ahead_and_in_order() -> None:
    begun: list[int] = []

    def submit(work: Any, *, alone: bool = False) -> Callable[[], Any]:
        begun.append(work)
        return lambda: work

    ahead = in_order(submit, [(n, n) for n in range(5)], 2, lambda: len(begun) == 4)  # type: ignore[arg-type]
    assert next(ahead)[0] == 0 and begun == [0, 1]
    assert [item for item, _ in ahead] == [1, 2, 3] and begun == [0, 1, 2, 3]


def test_threads_are_used_unless_work_is_alone() -> None:
    def here(subject: int) -> bool:
        return threading.current_thread() is threading.main_thread()

    with LocalExecutor(SUBJECT, 2).opened() as submit:
        assert submit(here, alone=True)() and not submit(here)()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
class TestRay:
    def test_a_worker_that_dies_is_replaced_and_its_work_asked_for_again(
        self, ray_executor: Make, tmp_path: Path
    ) -> None:
        def die_once(subject: int) -> int:
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return subject

        with ray_executor().opened() as submit:
            pending = [submit(die_once), submit(lambda subject: subject + 1)]
            assert [wait() for wait in pending] == [10, 11]

    def test_work_that_kills_worker_after_worker_fails(self, ray_executor: Make) -> None:
        def die(subject: int) -> int:
            os._exit(1)

        with ray_executor().opened() as submit:
            deadly, fine = submit(die), submit(lambda subject: subject)
            with pytest.raises(WorkerError, match="3 workers in a row died at it"):
                deadly()
            assert fine() == 10

    def test_one_thread_and_this_process_settings(self, ray_executor: Make) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            executor = ray_executor()
        finally:
            torch.set_default_dtype(torch.float32)
        with executor.opened() as submit:
            seen = submit(lambda subject: (torch.get_num_threads(), torch.ones(1).dtype))()
        assert seen == (1, torch.float64)

    def test_workers_without_room_leave_the_work_to_the_others(self, ray_executor: Make) -> None:
        executor = ray_executor(workers=5)
        with executor.opened() as submit:
            pending = [submit(lambda subject: subject) for _ in range(8)]
            assert [wait() for wait in pending] == [10] * 8
        assert executor.workers == 5 and executor.busy == 0

    def test_a_subject_that_no_worker_can_take_is_named(self, ray_executor: Make) -> None:
        with closing(ray_executor(Stubborn())) as executor:  # type: ignore[type-var]
            with executor.opened() as submit, pytest.raises(UsageError, match=r"no_such_module"):
                submit(lambda subject: subject)()

    def test_a_subject_that_cannot_be_sent_is_said_to_be_so(self, ray_executor: Make) -> None:
        with pytest.raises(UsageError, match=r"cannot be sent to Ray workers .*lock"):
            ray_executor(threading.Lock())


class Stubborn:
    """Cannot be made in another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("no_such_module",)
