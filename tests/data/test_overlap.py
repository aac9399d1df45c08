from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

from autoprune.data import as_splits
from autoprune.data.overlap import shared_samples
from autoprune.errors import DataError

INPUTS = torch.randn(40, 3)
DATASET = TensorDataset(INPUTS, torch.arange(40))


class Transformed(Dataset[Any]):
    """Another dataset's samples, changed: the usual way to two transforms."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.scale = inner, 2

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        x, y = self.inner[index]
        return self.scale * x, y


class Files(Dataset[Any]):
    """Names of files in a folder, read with or without augmentation."""

    def __init__(self, folder: str, names: list[str], augmented: bool) -> None:
        self.folder, self.names, self.augmented = folder, names, augmented

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index)]), index


class Images(Dataset[Any]):
    """Arrays in memory, of which every object has its own."""

    def __init__(self, pixels: Any) -> None:
        self.pixels, self.labels = pixels, list(range(len(pixels)))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(self.pixels[index]), self.labels[index]


def files(folder: str, augmented: bool) -> Files:
    return Files(folder, [f"{i}.png" for i in range(40)], augmented)


PIXELS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


def loader(start: int, stop: int, dataset: Any = DATASET) -> Any:
    return DataLoader(dataset, 4, sampler=SubsetRandomSampler(range(start, stop)))


def part(start: int, stop: int, dataset: Any = DATASET) -> Any:
    return Subset(dataset, range(start, stop))


SHARING = {
    "one dataset": (DATASET, DATASET, 40),
    "samplers": (loader(0, 20), loader(15, 40), 5),
    "a sampler and a subset": (loader(0, 20), part(18, 40), 2),
    "subsets of subsets": (part(5, 15, part(10, 40)), part(20, 40), 5),
    "a sampler over a subset": (loader(0, 10, part(20, 40)), part(29, 40), 1),
    "concatenated": (ConcatDataset([part(0, 10), part(20, 30)]), part(8, 22), 4),
    "part of a concatenation": (part(35, 45, ConcatDataset([part(5, 40), DATASET])), DATASET, 10),
    "transformed": (Transformed(part(0, 20)), Transformed(part(19, 40)), 1),
    "the same tensor": (TensorDataset(INPUTS), TensorDataset(INPUTS), 40),
    "slices of a tensor": (TensorDataset(INPUTS[:30]), TensorDataset(INPUTS[25:]), 5),
    "one of them transformed": (Transformed(DATASET), DATASET, 40),
    "the same files twice": (part(0, 20, files("a", True)), part(15, 40, files("a", False)), 5),
    "the same array twice": (part(0, 20, Images(PIXELS)), part(18, 40, Images(PIXELS.copy())), 2),
}
APART = {
    "samplers": (loader(0, 20), loader(20, 40)),
    "random split": tuple(random_split(DATASET, [30, 10])),
    "slices": (TensorDataset(INPUTS[:30]), TensorDataset(INPUTS[30:])),
    "equal values": (TensorDataset(INPUTS), TensorDataset(INPUTS.clone())),
    "concatenated": (ConcatDataset([part(0, 9), part(20, 30)]), part(9, 20)),
    "other files": (files("a", True), files("b", True)),
    "other arrays": (Images(PIXELS), Images(PIXELS + 1)),
    "transformed": (Transformed(part(0, 20)), Transformed(part(20, 40))),
}


@pytest.mark.parametrize(("one", "other", "count"), SHARING.values(), ids=SHARING)
def test_shared_samples_are_counted(one: Any, other: Any, count: int) -> None:
    a, b = as_splits(one).train, as_splits(other).train
    assert shared_samples(a, b) == shared_samples(b, a) == count


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART)
def test_splits_that_share_nothing(one: Any, other: Any) -> None:
    assert shared_samples(as_splits(one).train, as_splits(other).train) == 0
    assert as_splits({"train": one, "test": other}).notes == ()


@pytest.mark.parametrize("other", ["train", "val"])
def test_a_test_split_that_shares_samples_is_refused(other: str) -> None:
    with pytest.raises(DataError) as caught:
        as_splits({"train": part(0, 10), other: loader(0, 20), "test": loader(15, 40)})
    assert str(caught.value).startswith(
        f"{other} and test share 5 of their 20 and 25 samples: the final figure"
    )


def test_train_and_val_that_share_samples_are_told() -> None:
    splits = as_splits({"train": loader(0, 20), "val": loader(15, 40), "test": None})
    assert splits.notes == (
        "train and val share 5 of their 20 and 25 samples: candidates are scored on images they "
        "are fitted to",
    )


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((torch.tensor([float(i)]), i) for i in range(6))


def test_one_stream_for_two_splits_is_told() -> None:
    stream = Stream()
    notes = as_splits({"train": stream, "test": DataLoader(stream, 2)}).notes
    assert notes[-1] == "train and test are read from one stream: they may share samples"
    assert len(as_splits({"train": stream, "test": Stream()}).notes) == 2
