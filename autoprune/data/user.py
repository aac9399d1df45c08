"""Conversion of data given in Python (loaders, datasets, dicts of them) to splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from autoprune.core.randomness import kept_random_states
from autoprune.data.batches import batch_samples, data_errors
from autoprune.data.overlap import shared_note, shared_samples
from autoprune.data.samplers import pool_of
from autoprune.data.samples import Samples
from autoprune.data.splits import (
    SPLIT_NAMES,
    DatasetSplit,
    PartOfSplit,
    SamplesSplit,
    Split,
    Splits,
)
from autoprune.errors import DataError, UsageError, counted, did_you_mean, type_of

MATERIALISED_SAMPLES = 20_000
"""Samples read from a stream: far more than calibration, search and selection need."""


def as_splits(data: Any) -> Splits:
    """Convert a user's data to splits.

    Args:
        data: `Splits`, a DataLoader, a map-style Dataset, or a dict of such under "train", "val"
            and "test". Without "train", "val" takes its place. Batches have any structure that
            `batch_samples` reads. A loader contributes its collate_fn and the samples that its
            sampler can draw, each once; its order and workers are ignored. The first 20,000
            samples of a stream (an iterable dataset) are read into memory.

    Raises:
        UsageError: the data is none of these, or a dict with unknown or missing keys.
        DataError: a split is empty, its batches are not (inputs, targets), the user's code fails,
            or the test split shares samples with another one.
    """
    if isinstance(data, Splits):
        return data
    named = dict(data) if isinstance(data, Mapping) else {"train": data}
    for name in named:
        if name not in SPLIT_NAMES:
            raise UsageError(f"unknown split {name!r} in data: {did_you_mean(name, SPLIT_NAMES)}")
    given = {name: part for name, part in named.items() if part is not None}
    if not given.keys() & {"train", "val"}:
        raise UsageError(f"data needs 'train' or 'val', but has {', '.join(given) or 'none'}.")
    notes: list[str] = []
    splits = {name: _as_split(part, name, notes) for name, part in given.items()}
    notes += [*_shared(splits), *_same_streams(given)]
    if "train" not in splits:
        splits["train"] = splits.pop("val")
    return Splits.of(splits, notes)


def _shared(splits: Mapping[str, Split]) -> Iterator[str]:
    for (name, one), (other, another) in combinations(splits.items(), 2):
        if count := shared_samples(one, another):
            what = f"{count} of their {len(one)} and {len(another)} samples"
            yield shared_note(name, other, what)


def _same_streams(given: Mapping[str, Any]) -> Iterator[str]:
    sources = {name: getattr(part, "dataset", part) for name, part in given.items()}
    for (name, one), (other, another) in combinations(sources.items(), 2):
        if one is another and isinstance(one, IterableDataset):
            yield f"{name} and {other} are read from one stream: they may share samples"


def _as_split(data: Any, name: str, notes: list[str]) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=64)
    if isinstance(data, DataLoader):
        return _loader_split(data, name, notes)
    if not _is_map_style(data):
        raise UsageError(
            f"data[{name!r}] must be a DataLoader or a Dataset with __len__ and __getitem__, but "
            f"got {type_of(data)}; tensors: TensorDataset(inputs, targets)."
        )
    return DatasetSplit(data, classes=folder_classes(data))


def _is_map_style(data: Any) -> bool:
    if isinstance(data, (Sequence, Tensor, np.ndarray)):
        return False  # (x, y) would be taken for a dataset of two samples
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def folder_classes(dataset: Any) -> int | None:
    """Return the number of classes of a dataset whose labels number sorted class folders.

    Such a dataset is torchvision's `ImageFolder` without a `target_transform`; None for any other.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    numbers = getattr(dataset, "class_to_idx", None)
    mapped = getattr(dataset, "target_transform", None) is not None
    if mapped or not isinstance(numbers, Mapping) or not hasattr(dataset, "samples"):
        return None
    return len(numbers) if sorted(numbers.values()) == list(range(len(numbers))) else None


def _loader_split(loader: DataLoader[Any], name: str, notes: list[str]) -> Split:
    dataset = loader.dataset
    if loader.batch_sampler is None or isinstance(dataset, IterableDataset):
        return _materialise(loader, name, notes)
    collate = loader.collate_fn
    classes = folder_classes(dataset) if collate is default_collate else None
    split = DatasetSplit(dataset, collate, classes)
    pool = pool_of(loader, len(split))
    if pool is None:
        return _materialise(loader, name, notes)
    if pool.remark:
        notes.append(
            f"the {name} loader {pool.remark}: of its {counted(len(split), 'sample')} the "
            f"{len(pool.indices)} that it can draw are used, each once"
        )
    whole = np.array_equal(pool.indices, np.arange(len(split)))
    return split if whole else PartOfSplit(split, pool.indices)


def _materialise(loader: DataLoader[Any], name: str, notes: list[str]) -> Split:
    """Read the first samples of a loader into memory."""
    parts: list[Samples] = []
    count = 0
    with kept_random_states(), data_errors(f"the {name} loader fails"):
        for batch in loader:
            parts.append(batch_samples(batch))
            count += len(parts[-1])
            if count >= MATERIALISED_SAMPLES:
                break
    if not count:
        raise DataError(f"the {name} split is empty: it needs at least one sample.")
    first = "the first " if count >= MATERIALISED_SAMPLES else ""
    notes.append(
        f"the {name} data is read as a stream: "
        f"{first}{counted(min(count, MATERIALISED_SAMPLES), 'sample')} used and kept in memory"
    )
    try:
        return SamplesSplit(Samples.join(parts).first(MATERIALISED_SAMPLES))
    except DataError as error:
        raise DataError(f"the {name} split's {error}") from error
