"""Data as the Python API takes it: loaders, datasets and dicts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from autoprune.data.splits import DatasetSplit, Samples, SamplesSplit, Split, Splits, batch_samples
from autoprune.errors import DataError, UsageError, did_you_mean, type_of

SPLIT_NAMES = ("train", "val", "test")
MATERIALISED_SAMPLES = 20_000
"""Samples kept of a stream: far more than calibration, search and selection ask for."""


def as_splits(data: Any) -> Splits:
    """Return the splits that a user's data means.

    Args:
        data: `Splits`, a DataLoader, a map-style Dataset, or a dict of such under "train", "val"
            and "test". Without "train", "val" takes its place. Batches have any form that
            `batch_samples` reads; a loader's order, sampler and workers are not used, its
            collate_fn is. Of a stream (an iterable dataset) the first 20,000 samples are read into
            memory.

    Raises:
        UsageError: the data is none of these, or a dict with unknown or without needed keys.
        DataError: a split is empty, or its batches are not (inputs, targets).
    """
    if isinstance(data, Splits):
        return data
    named = dict(data) if isinstance(data, Mapping) else {"train": data}
    for name in named:
        if name not in SPLIT_NAMES:
            raise UsageError(f"unknown split {name!r} in data: {did_you_mean(name, SPLIT_NAMES)}")
    given = {name: part for name, part in named.items() if part is not None}
    if "train" not in given:
        if "val" not in given:
            raise UsageError(f"data needs 'train' or 'val', but has {', '.join(given) or 'none'}.")
        given["train"] = given.pop("val")
    splits = {name: _as_split(part, name) for name, part in given.items()}
    return Splits(**splits)


def _as_split(data: Any, name: str) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size=64)
    if isinstance(data, DataLoader):
        return _loader_split(data, name)
    if not _is_map_style(data):
        raise UsageError(
            f"data[{name!r}] must be a DataLoader or a Dataset with __len__ and __getitem__, but "
            f"got {type_of(data)}; tensors: TensorDataset(inputs, targets)."
        )
    return DatasetSplit(data)


def _is_map_style(data: Any) -> bool:
    if isinstance(data, (Sequence, Tensor, np.ndarray)):
        return False  # (x, y) would pass for a dataset of two samples
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _loader_split(loader: DataLoader[Any], name: str) -> Split:
    makes_batches = loader.batch_sampler is not None
    if makes_batches and not isinstance(loader.dataset, IterableDataset):
        return DatasetSplit(loader.dataset, loader.collate_fn)
    return _materialise(loader, name)


def _materialise(loader: DataLoader[Any], name: str) -> Split:
    parts: list[Samples] = []
    count = 0
    for batch in loader:
        parts.append(batch_samples(batch))
        count += len(parts[-1])
        if count >= MATERIALISED_SAMPLES:
            break
    if not count:
        raise DataError(f"the {name} split is empty: it needs at least one sample.")
    try:
        return SamplesSplit(Samples.join(parts).first(MATERIALISED_SAMPLES))
    except DataError as error:
        raise DataError(f"the {name} split's {error}") from error
