"""Splits of arrays and datasets, and faults in the user's code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data import ArraySplit, DatasetSplit, Normalization, Splits
from autoprune.errors import DataError


def test_array_split_scales_normalises_and_puts_channels_first() -> None:
    images = np.zeros((3, 2, 4, 2), dtype=np.uint8)
    images[1, 0, 3, 1] = 255
    split = ArraySplit(images, np.array([7, 8, 9]), Normalization((0.0, 0.5), (1.0, 0.5)))
    samples = split.take([1, 0])
    assert samples.inputs.shape == (2, 2, 2, 4)
    assert samples.inputs.dtype == torch.float32
    assert samples.inputs[0, 1, 0, 3] == 1.0
    assert (samples.inputs[1, 1] == -1.0).all()
    assert samples.targets is not None and samples.targets.tolist() == [8, 7]


def test_batches_stream_everything_once_in_order() -> None:
    split = DatasetSplit([(torch.tensor([float(i)]), i) for i in range(7)])
    batches = list(split.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    labels = [label for batch in batches for label in batch.targets.tolist()]  # type: ignore[union-attr]
    assert labels == list(range(7))


def test_a_batch_whose_first_dimension_is_not_the_samples() -> None:
    split = DatasetSplit([torch.zeros(5)] * 4, lambda items: torch.stack(items, 1))
    with pytest.raises(DataError, match=r"a batch made of 3 samples is of shape \(5, 3\)"):
        split.take([0, 1, 2])


class Faulty:
    """A dataset whose code fails."""

    def __init__(self, fault: BaseException, length: Any = 3) -> None:
        self.fault, self.length = fault, length

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            raise self.fault
        return torch.zeros(2), index

    def __len__(self) -> Any:
        return self.length


@pytest.mark.parametrize(
    "fault",
    [
        OSError("image file is truncated"),
        IndexError("list index out of range"),
        StopIteration("no more"),
        KeyError("7"),
        ZeroDivisionError("of two\nlines"),
        SystemExit("0"),
    ],
)
def test_whatever_a_dataset_raises_is_one_line(fault: BaseException) -> None:
    with pytest.raises(DataError) as caught:
        DatasetSplit(Faulty(fault)).take([0, 1])
    reason = str(fault).partition("\n")[0]
    assert str(caught.value) == f"sample 1 of 3 cannot be read: {type(fault).__name__}: {reason}"


def test_interrupting_a_dataset_is_no_mistake_of_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        DatasetSplit(Faulty(KeyboardInterrupt())).take([1])


@pytest.mark.parametrize("length", [-1, 2.5, None, "3"])
def test_a_length_that_is_none(length: Any) -> None:
    with pytest.raises(DataError, match="the dataset's length is not known: "):
        Splits(DatasetSplit(Faulty(OSError(), length)))


@pytest.mark.parametrize("fault", [KeyError("x"), StopIteration(), AssertionError("sizes")])
def test_whatever_collate_raises_is_one_line(fault: Exception) -> None:
    def collate(items: list[Any]) -> Any:
        raise fault

    with pytest.raises(DataError, match=f"cannot make one batch: {type(fault).__name__}"):
        DatasetSplit([(torch.zeros(2), 0)], collate).take([0])


def test_empty_split() -> None:
    full = DatasetSplit([(torch.zeros(2), 0)])
    with pytest.raises(DataError, match="the val split is empty"):
        Splits(full, val=DatasetSplit([]))


def test_samples_of_different_shapes() -> None:
    split = DatasetSplit([(torch.zeros(2), 0), (torch.zeros(3), 1)])
    with pytest.raises(DataError, match="cannot make one batch"):
        split.take([0, 1])
