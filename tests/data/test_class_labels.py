from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.data import NO_LABEL, Samples, check_classes, check_labels, with_class_labels
from autoprune.errors import DataError


def test_labels() -> None:
    inputs = torch.zeros(3, 1)
    check_labels(Samples(inputs, torch.tensor([0, 1, 1])), classes=1000)
    check_labels(Samples(inputs, None), classes=2)
    for label in (-1, 2):
        with pytest.raises(DataError, match=f"label {label} is outside the network's 2 classes"):
            check_labels(Samples(inputs, torch.tensor([0, 1, label])), classes=2)
    with pytest.raises(DataError, match="labels must be whole numbers"):
        check_labels(Samples(inputs, torch.zeros(3, 4)), classes=4)


def test_a_sample_may_have_no_label() -> None:
    some = Samples(torch.zeros(3, 1), torch.tensor([0, NO_LABEL, 1]))
    check_labels(some, classes=2)
    assert some.labelled
    assert not Samples(torch.zeros(2, 1), torch.tensor([NO_LABEL, NO_LABEL])).labelled
    with pytest.raises(DataError, match=r"label -1 is outside .* without a label has -100"):
        check_labels(Samples(torch.zeros(2, 1), torch.tensor([NO_LABEL, -1])), classes=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_one_hot(dtype: torch.dtype) -> None:
    targets = torch.tensor([[0, 0, 1], [1, 0, 0]]).to(dtype)
    found = with_class_labels(Samples(torch.zeros(2, 1), targets))
    assert found.targets is not None and found.targets.dtype == torch.int64
    assert found.targets.tolist() == [2, 0]


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([[0.0, 1.0], [0.1, 0.9]]),  # soft
        torch.tensor([[0, 1], [1, 1]]),  # several classes
        torch.tensor([[0, 1], [0, 0]]),  # none
        torch.tensor([[2, -1], [0, 1]]),
        torch.tensor([[1.0], [1.0]]),  # one number
        torch.zeros(2, 3, 4),
    ],
)
def test_other_targets_stay(targets: Tensor) -> None:
    assert with_class_labels(Samples(torch.zeros(2, 1), targets)).targets is targets


def test_classes_that_are_numbered() -> None:
    check_classes(None, 10)
    check_classes(10, 10)
    for numbered in (500, 1001):
        with pytest.raises(DataError, match=rf"has {numbered:,} classes .* 1,000 outputs.*--class"):
            check_classes(numbered, 1000)
