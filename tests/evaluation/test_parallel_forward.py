from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import ModelError
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.parallel_forward import (
    MOST_AT_ONCE,
    PARALLEL_BATCH,
    TESTED,
    ParallelForward,
    in_turn,
)

ROWS = 5 * PARALLEL_BATCH + 3


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "a pass left another number of threads behind"
    torch.set_num_threads(before)


@pytest.fixture
def samples() -> Samples:
    torch.manual_seed(0)
    return Samples(torch.randn(ROWS, 6), torch.randint(0, 6, (ROWS,)))


class Meeting(nn.Module):
    """Doubles its input; every batch waits for another one, so that two must be on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=20)
        self.threads: set[int] = set()
        self.number = 0

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        self.barrier.wait()
        self.threads.add(torch.get_num_threads())
        return 2 * x


class Keeping(Meeting):
    """The same, but by way of what it keeps on itself: batches at the same time mix it up.

    An odd batch in a stream would wait for another one until the time is up.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        if threading.current_thread() is not threading.main_thread():
            self.barrier.wait()
        return 2 * self.kept


def test_batches_are_computed_together_and_come_in_order(samples: Samples) -> None:
    streams, model = ParallelForward(samples), Meeting()
    found = list(streams.outputs(model))
    assert [len(rows) for rows in found] == [len(batch) for batch in streams.batches()]
    assert len(found) == 6 and torch.equal(torch.cat(found), 2 * samples.inputs)
    assert model.threads == {1}, "threads of a stream's own"


def test_who_stops_early_computes_little_more(samples: Samples) -> None:
    model = Meeting()
    outputs = ParallelForward(samples).outputs(model)
    next(outputs)
    outputs.close()  # type: ignore[attr-defined]
    assert model.number == 2


def test_a_failing_batch_is_heard_of(samples: Samples) -> None:
    def fail(x: Tensor) -> Tensor:
        raise ArithmeticError("overflow")

    model = nn.Identity()
    model.forward = fail  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="cannot be run: ArithmeticError: overflow"):
        list(ParallelForward(samples).outputs(model))


def test_one_thread_computes_in_turn(samples: Samples) -> None:
    torch.set_num_threads(1)
    streams = ParallelForward(samples)
    assert [len(b) for b in streams.batches()] == [len(b) for b in in_turn(samples)]
    torch.set_num_threads(2)
    assert len(streams.batches()) > len(list(in_turn(samples)))
    assert torch.equal(torch.cat(list(streams.outputs(nn.Identity()))), samples.inputs)


def test_a_network_that_keeps_something_is_run_in_turn_though_nothing_went_wrong(
    samples: Samples,
) -> None:
    class Counting(nn.Identity):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

    streams = ParallelForward(samples)
    streams.check(Counting(), samples.inputs)
    assert streams.width == 1
    streams = ParallelForward(samples)
    streams.check(nn.Identity(), samples.inputs)
    assert streams.width == 2


def test_few_are_computed_at_once(samples: Samples) -> None:
    torch.set_num_threads(2 * MOST_AT_ONCE)
    streams = ParallelForward(samples)
    assert streams.width == MOST_AT_ONCE
    torch.set_num_threads(2)
    assert streams.width == 2


def test_a_network_whose_batches_disturb_each_other_is_run_in_turn(samples: Samples) -> None:
    samples = samples.first(TESTED * 2 * PARALLEL_BATCH)
    streams = ParallelForward(samples)
    assert streams.width == 2
    streams.check(Keeping(), 2 * samples.inputs)
    assert streams.width == 1
    scorer = ClassificationScorer(Keeping(), samples)
    assert scorer.score(Keeping()) == scorer.dense
