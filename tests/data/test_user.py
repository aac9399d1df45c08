from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from autoprune.data import Splits, as_splits
from autoprune.data import user as user_module
from autoprune.errors import DataError, UsageError

DATASET = TensorDataset(torch.arange(6.0)[:, None], torch.arange(6))


class Stream(IterableDataset[Any]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((torch.tensor([float(i)]), i) for i in range(self.length))


class Batches(IterableDataset[Any]):
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def labels_of(splits: Splits) -> list[int]:
    return splits.train.take(range(len(splits.train))).targets.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "data",
    [
        DATASET,
        DataLoader(DATASET, batch_size=4),
        {"train": DATASET},
        {"train": DATASET, "val": None},
        {"val": DATASET},
        Stream(6),
        DataLoader(Stream(6), batch_size=4),
        DataLoader(
            Stream(6), batch_size=None, collate_fn=lambda s: (s[0][None], torch.tensor([s[1]]))
        ),
        as_splits(DATASET),
    ],
)
def test_forms(data: Any) -> None:
    splits = as_splits(data)
    assert labels_of(splits) == list(range(6))
    assert splits.val is None and splits.test is None


def test_collate_of_the_loader_is_used() -> None:
    def double(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return 2 * torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])

    splits = as_splits(DataLoader(DATASET, collate_fn=double))
    assert splits.train.take([3]).inputs.tolist() == [[6.0]]


def test_inputs_alone() -> None:
    assert as_splits(TensorDataset(torch.zeros(3, 2))).train.take([0]).targets is None
    stream: DataLoader[Any] = DataLoader(TensorDataset(torch.zeros(3, 2)), batch_size=None)
    assert as_splits(stream).train.take([0]).targets is None


def test_streams_of_several_inputs() -> None:
    rows = TensorDataset(torch.arange(6.0)[:, None], -torch.arange(6), torch.arange(6))
    streamed: DataLoader[Any] = DataLoader(Batches([*DataLoader(rows, 4)]), batch_size=None)
    for data in (rows, streamed):
        a, b = as_splits(data).train.take([5, 1]).inputs
        assert a.tolist() == [[5.0], [1.0]] and b.tolist() == [-5, -1]


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_module, "MATERIALISED_SAMPLES", 100)
    splits = as_splits(Stream(10**9))
    assert len(splits.train) == 100
    assert splits.notes == (
        "the train data is read as a stream: the first 100 samples used and kept in memory",
    )


class Torn(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield torch.zeros(1), 0
        raise OSError("connection\nlost")


def test_a_stream_that_fails() -> None:
    with pytest.raises(DataError) as caught:
        as_splits({"train": DATASET, "val": Torn()})
    assert str(caught.value) == "the val loader fails: OSError: connection"


class Folder(TensorDataset):
    """What torchvision's ImageFolder says of itself."""

    def __init__(self, classes: dict[str, int], target_transform: Any = None) -> None:
        super().__init__(torch.zeros(6, 1), torch.arange(6))
        self.samples, self.class_to_idx = list(range(6)), classes
        self.target_transform = target_transform


def test_labels_that_number_class_folders_are_known() -> None:
    folder = Folder({"ant": 0, "bee": 1, "cow": 2})
    for data in (folder, Subset(folder, [1, 2]), DataLoader(Subset(folder, [1, 2]), shuffle=True)):
        assert as_splits(data).train.classes == 3
    unknown = [
        Folder({"ant": 0, "bee": 1}, target_transform=int),
        Folder({"ant": 5, "bee": 7}),
        DataLoader(folder, collate_fn=lambda items: items[0]),
        DATASET,
    ]
    for data in unknown:
        assert as_splits(data).train.classes is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": DATASET, "valid": DATASET}, "unknown split 'valid' in data: did you mean 'val'"),
        ({"test": DATASET}, "data needs 'train' or 'val', but has test"),
        ({}, "data needs 'train' or 'val', but has none"),
        ((torch.zeros(3), torch.zeros(3)), "got a tuple; tensors: TensorDataset"),
        (3, "data['train'] must be a DataLoader or a Dataset"),
        ("digits", "got a str"),
    ],
)
def test_usage_error(data: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_splits(data)
    assert message in str(caught.value)


def test_empty() -> None:
    with pytest.raises(DataError, match="the train split is empty"):
        as_splits(Stream(0))
    with pytest.raises(DataError, match="the test split is empty"):
        as_splits({"train": DATASET, "test": TensorDataset(torch.zeros(0, 1))})
