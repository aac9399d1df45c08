from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from autoprune.data import Splits, as_splits
from autoprune.errors import DataError

DATASET = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40))


class Own(Sampler[Any]):
    """Draws what a function gives, from a random state of its own."""

    def __init__(self, draw: Callable[[random.Random, torch.Generator], Iterator[Any]]) -> None:
        self.draw = draw
        self.random, self.generator = random.Random(0), torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[Any]:
        return self.draw(self.random, self.generator)


class Shuffled(Sampler[Any]):
    """Shuffles its indices in place, as many do."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = list(indices)

    def __iter__(self) -> Iterator[int]:
        random.shuffle(self.indices)
        torch.randperm(3), np.random.permutation(3)
        return iter(self.indices)


def endless(low: int, high: int) -> Iterator[int]:
    while True:
        yield from np.random.permutation(np.arange(low, high))


def labels_of(splits: Splits) -> list[int]:
    return splits.train.take(range(len(splits.train))).targets.tolist()  # type: ignore[union-attr]


SAMPLERS = {
    "none": (None, range(40)),
    "sequential": (SequentialSampler(DATASET), range(40)),
    "subset": (SubsetRandomSampler(range(9, 3, -1)), range(4, 10)),
    "subset, a tensor": (SubsetRandomSampler(torch.tensor([7, 5])), [5, 7]),  # type: ignore[arg-type]
    "sequential over a part": (SequentialSampler(Subset(DATASET, range(7))), range(7)),
    "random over a part": (RandomSampler(Subset(DATASET, range(7))), range(7)),
    "a range": (range(3, 9), range(3, 9)),
    "a list": ([4, 4, 2, -1], [2, 4, 39]),
    "an array": (np.array([1, 0]), [0, 1]),
    "own": (Shuffled(range(5, 15)), range(5, 15)),
    "own, tensors": (Own(lambda r, g: iter(torch.randperm(8, generator=g))), range(8)),
}
REMARKED = {
    "replacement": (RandomSampler(DATASET, replacement=True), range(40), "with replacement"),
    "some": (RandomSampler(DATASET, num_samples=9), range(40), "a random part every time"),
    "weights": (WeightedRandomSampler([0.5] * 10 + [0.0] * 30, 20), range(10), "by weights"),
    "distributed": (DistributedSampler(DATASET, 2, 0), range(40), "gives every process a part"),
    "endless": (Own(lambda r, g: endless(30, 38)), range(30, 38), "draws without end (160"),
}


@pytest.mark.parametrize(("sampler", "expected"), SAMPLERS.values(), ids=SAMPLERS)
def test_what_a_sampler_draws_is_used(sampler: Any, expected: Sequence[int]) -> None:
    splits = as_splits(DataLoader(DATASET, 4, sampler=sampler))
    assert labels_of(splits) == list(expected) and splits.notes == ()


@pytest.mark.parametrize(("sampler", "expected", "remark"), REMARKED.values(), ids=REMARKED)
def test_what_is_used_of_other_samplers_is_told(
    sampler: Any, expected: Sequence[int], remark: str
) -> None:
    splits = as_splits(DataLoader(DATASET, 4, sampler=sampler))
    assert labels_of(splits) == list(expected)
    (note,) = splits.notes
    assert note.startswith("the train loader ") and remark in note
    assert note.endswith(
        f"of its 40 samples the {len(expected)} that it can draw are used, each once"
    )


def test_other_samples_every_time() -> None:
    sampler = Own(lambda r, g: iter(r.sample(range(10, 30), 10)))
    splits = as_splits(DataLoader(DATASET, 4, sampler=sampler))
    drawn = labels_of(splits)
    assert 10 < len(drawn) <= 20 and set(drawn) <= set(range(10, 30))
    assert "draws other samples every time" in splits.notes[0]


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        (BatchSampler(SubsetRandomSampler(range(5)), 2, True), range(5)),
        (BatchSampler(Shuffled(range(5, 15)), 4, False), range(5, 15)),
        (type("Derived", (BatchSampler,), {})(range(6), 4, False), range(6)),
        ([[1, 2], (5,)], [1, 2, 5]),
        (Own(lambda r, g: iter([torch.tensor([3, -1]), [0]])), [0, 3, 39]),
    ],
)
def test_batch_samplers(batches: Any, expected: Sequence[int]) -> None:
    assert labels_of(as_splits(DataLoader(DATASET, batch_sampler=batches))) == list(expected)


def test_the_last_batch_is_not_dropped() -> None:
    loader = DataLoader(DATASET, 7, drop_last=True, shuffle=True)
    assert labels_of(as_splits(loader)) == list(range(40))


def test_a_shuffled_part_of_a_dataset() -> None:
    loader = DataLoader(Subset(DATASET, range(10, 20)), 3, shuffle=True)
    assert labels_of(as_splits(loader)) == list(range(10, 20))


class Sized(TensorDataset):
    """A dataset that is asked for (index, size)."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return torch.zeros(1), torch.tensor(key[0])


def test_what_is_not_asked_for_by_number_is_read_through_the_loader() -> None:
    sized = Sized(*DATASET.tensors)
    loader: Any = DataLoader(sized, batch_sampler=[[(1, 32), (2, 32)], [(9, 64)]])
    splits = as_splits(loader)
    assert labels_of(splits) == [1, 2, 9]
    assert splits.notes[0].startswith("the train data is read as a stream: 3 samples")


def fails(error: BaseException) -> Iterator[int]:
    raise error
    yield 0


@pytest.mark.parametrize("error", [ValueError("no\nway"), KeyError("k"), StopIteration()])
def test_samplers_that_fail(error: Exception) -> None:
    with pytest.raises(DataError, match="the sampler Own fails: ") as caught:
        as_splits(DataLoader(DATASET, sampler=Own(lambda r, g: fails(error))))
    assert "\n" not in str(caught.value)


def test_a_sampler_of_nothing() -> None:
    with pytest.raises(DataError, match="the train split is empty"):
        as_splits(DataLoader(DATASET, sampler=[]))


def states(sampler: Any) -> list[Any]:
    own = [sampler.random.getstate(), sampler.generator.get_state().tolist()]
    return [*own, random.getstate(), torch.get_rng_state().tolist(), *np.random.get_state()[1]]


def test_random_states_stay_as_they_are() -> None:
    sampler = Own(lambda r, g: iter([r.randrange(9), int(torch.randint(9, (), generator=g))]))
    shuffled = Shuffled(range(20))
    generator = torch.Generator().manual_seed(5)
    shuffling: Any = DataLoader(DATASET, 4, shuffle=True, generator=generator)
    stream: Any = DataLoader(DATASET, batch_size=None, sampler=BatchSampler(range(4), 2, False))
    before = states(sampler)
    for loader in (
        DataLoader(DATASET, 4, sampler=sampler),
        DataLoader(DATASET, 4, sampler=shuffled),
        shuffling,
        stream,
    ):
        as_splits(loader)
    assert states(sampler) == before
    assert shuffled.indices == list(range(20))
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


@given(st.sets(st.integers(0, 39), min_size=1), st.integers(1, 9), st.booleans())
def test_three_parts_of_one_dataset(chosen: set[int], size: int, batched: bool) -> None:
    def loader(indices: set[int]) -> Any:
        sampler = SubsetRandomSampler(sorted(indices))
        if batched:
            return DataLoader(DATASET, batch_sampler=BatchSampler(sampler, size, False))
        return DataLoader(DATASET, size, sampler=sampler)

    rest = set(range(40)) - chosen
    splits = as_splits({"train": loader(chosen), **({"test": loader(rest)} if rest else {})})
    assert labels_of(splits) == sorted(chosen) and splits.notes == ()
    assert not rest or (splits.test is not None and len(splits.test) == len(rest))
