"""What a batch of the user's data is read as."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

from autoprune.data.batches import batch_samples
from autoprune.errors import DataError


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


def test_a_list_of_images_with_a_dict_for_each() -> None:
    images = [torch.full((3, 4, 5), float(number)) for number in range(2)]
    boxes = [{"boxes": torch.zeros(number, 4)} for number in range(2)]
    for batch in ((images, boxes), (tuple(images), tuple(boxes))):
        samples = batch_samples(batch)
        assert torch.equal(samples.inputs, torch.stack(images)) and samples.targets is None
    with pytest.raises(DataError, match=r"differ in size: \(3, 4, 5\) and \(3, 6, 5\); resize"):
        batch_samples(([images[0], torch.zeros(3, 6, 5)], boxes))
    # Two inputs of a network, not two images.
    assert isinstance(batch_samples((tuple(images), torch.zeros(3))).inputs, tuple)


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
