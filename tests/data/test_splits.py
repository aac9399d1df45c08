from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autoprune.data import ArraySplit, DatasetSplit, Normalization, Samples, Splits
from autoprune.data.splits import batch_samples
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


def test_samples_batches_and_first() -> None:
    samples = Samples(torch.arange(5.0)[:, None], torch.arange(5))
    assert [len(batch) for batch in samples.batches(2)] == [2, 2, 1]
    assert len(samples.first(3)) == 3
    assert len(samples.first(99)) == 5
    assert samples.to("cpu").inputs.device.type == "cpu"


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(4, 2),
        [torch.zeros(4, 2)],
        (torch.zeros(4, 2), ["box"] * 4),
    ],
)
def test_batch_without_tensor_targets(batch: Any) -> None:
    samples = batch_samples(batch)
    assert samples.inputs.shape == (4, 2)
    assert samples.targets is None


def test_batch_dtypes() -> None:
    samples = batch_samples((torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2).int()))
    assert samples.inputs.dtype == torch.float32
    assert samples.targets is not None and samples.targets.dtype == torch.int64
    regression = batch_samples((torch.zeros(2, 1), torch.zeros(2, 3)))
    assert regression.targets is not None and regression.targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": torch.zeros(2)}, "must be (inputs, targets) or inputs, but got a dict"),
        ((torch.zeros(2), 1, 2), "but got a tuple of 3"),
        ((["a", "b"], torch.zeros(2)), "inputs must be a tensor, but got a list of 2"),
        ((torch.zeros(2).byte(), torch.zeros(2)), "inputs are uint8"),
        ((torch.zeros(2), torch.zeros(3)), "2 inputs but 3 targets"),
    ],
)
def test_batch_error(batch: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        batch_samples(batch)
    assert message in str(caught.value)


def test_samples_of_different_shapes() -> None:
    split = DatasetSplit([(torch.zeros(2), 0), (torch.zeros(3), 1)])
    with pytest.raises(DataError, match="cannot make one batch"):
        split.take([0, 1])


def test_unreadable_sample() -> None:
    class Broken:
        def __getitem__(self, index: int) -> Any:
            raise OSError("image file is truncated")

        def __len__(self) -> int:
            return 1

    with pytest.raises(DataError, match="cannot be read: image file is truncated"):
        DatasetSplit(Broken()).take([0])


def test_empty_split() -> None:
    full = DatasetSplit([(torch.zeros(2), 0)])
    with pytest.raises(DataError, match="the val split is empty"):
        Splits(full, val=DatasetSplit([]))
