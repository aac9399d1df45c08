from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten

from autoprune.data import NO_LABEL, ArraySplit, DatasetSplit, Normalization, Samples, Splits
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
    assert samples.inputs.dtype == torch.float64
    assert samples.targets is not None and samples.targets.dtype == torch.int64
    regression = batch_samples((torch.zeros(2, 1), torch.zeros(2, 3)))
    assert regression.targets is not None and regression.targets.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_whole_numbers_are_labels(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    targets = torch.tensor([1, 0, 1], dtype=dtype).reshape(shape)
    found = batch_samples((torch.zeros(3, 1), targets)).targets
    assert found is not None and found.dtype == torch.int64 and found.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": torch.zeros(2)}, "must be a tensor, or tuples or dicts of tensors"),
        ({"image": torch.zeros(2), "path": ["a", "b"]}, "inputs 'path' must be a tensor"),
        ((torch.zeros(2), 1, 2), "with the samples in the first dimension, but got an int"),
        ((["a", "b"], torch.zeros(2)), "must be a tensor, or tuples or dicts of tensors"),
        ((torch.tensor(1.0), torch.zeros(2)), "first dimension, but got a number"),
        ((torch.zeros(2), torch.zeros(3), torch.zeros(2)), "have the shapes (2,), (3,)"),
        ([], "must be a tensor"),
        ((torch.zeros(3, 8, 8), 4), "has the target 4 and inputs of shape (3, 8, 8)"),
        ((torch.zeros(3, 8, 8), torch.tensor(4)), "the samples in its first dimension"),
        ((torch.zeros(2).byte(), torch.zeros(2)), "inputs are uint8"),
        ((torch.zeros(2), torch.zeros(3)), "2 inputs but 3 targets"),
    ],
)
def test_batch_error(batch: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        batch_samples(batch)
    assert message in str(caught.value)


A, B, LABELS = torch.rand(4, 2), torch.rand(4, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("batch", "form"),
    [
        ([[A, B], LABELS], (A, B)),
        (((A, B), LABELS), (A, B)),
        ([A, B, LABELS], (A, B)),
        (({"a": A, "b": B}, LABELS), {"a": A, "b": B}),
        ({"a": A, "labels": LABELS, "b": B}, {"a": A, "b": B}),
        ({"a": A, "label": LABELS}, {"a": A}),
        ({"a": A, "targets": LABELS}, {"a": A}),
        (UserDict({"a": A, "target": LABELS}), {"a": A}),
        ([(A, {"b": [B]}), LABELS], (A, {"b": B})),
        (((A,), LABELS), A),
    ],
)
def test_forms_of_inputs(batch: Any, form: Any) -> None:
    samples = batch_samples(batch)
    (found, spec), (wanted, same) = tree_flatten(samples.inputs), tree_flatten(form)
    assert spec == same and all(one is other for one, other in zip(found, wanted, strict=True))
    assert samples.targets is not None and torch.equal(samples.targets, LABELS)


@pytest.mark.parametrize("batch", [((A, B),), {"a": A, "b": B}, [[A, B]]])
def test_several_inputs_alone(batch: Any) -> None:
    samples = batch_samples(batch)
    assert len(samples) == 4 and samples.targets is None
    assert len(tree_flatten(samples.inputs)[0]) == 2


def test_samples_of_several_inputs() -> None:
    samples = Samples((A, {"b": B, "n": LABELS}), LABELS)
    assert len(samples) == 4 and samples.sample_bytes == 4 * 2 + 4 * 3 + 8
    assert samples.shape == "(2,), b (3,), n ()"
    part = samples[1:3]
    assert len(part) == 2 and torch.equal(part.inputs[1]["n"], LABELS[1:3])  # type: ignore[index]
    assert [len(batch) for batch in samples.batches(3)] == [3, 1]
    both = samples.with_unlabelled(samples.first(1))
    assert both.targets is not None and both.targets.tolist() == [0, 1, 2, 3, NO_LABEL]
    assert torch.equal(both.inputs[0][4], A[0])  # type: ignore[index]
    broken = Samples((A, torch.full((4, 1), torch.inf)), None)
    assert samples.finite().all() and not broken.finite().any()


def test_a_batch_whose_first_dimension_is_not_the_samples() -> None:
    split = DatasetSplit([torch.zeros(5)] * 4, lambda items: torch.stack(items, 1))
    with pytest.raises(DataError, match=r"3 samples make a batch of shape \(5, 3\)"):
        split.take([0, 1, 2])


def test_samples_of_different_shapes() -> None:
    split = DatasetSplit([(torch.zeros(2), 0), (torch.zeros(3), 1)])
    with pytest.raises(DataError, match="cannot make one batch"):
        split.take([0, 1])


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
