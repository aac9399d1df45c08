"""Detection of samples that two splits share, through any nesting of datasets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from autoprune.data.splits import DatasetSplit, PartOfSplit, Split
from autoprune.errors import DataError

Places = npt.NDArray[np.int64]
# Number of samples by which two datasets are compared.
COMPARED = 64


def shared_note(name: str, other: str, what: str) -> str:
    """Return a note that two splits share something.

    Raises:
        DataError: one of them is the test split, whose score would be wrong.
    """
    if "test" in (name, other):
        raise DataError(
            f"{name} and {other} share {what}: the final figure would be of images that the search "
            "has seen; keep them apart, or leave test out."
        )
    return f"{name} and {other} share {what}: candidates are scored on images they are fitted to"


def shared_samples(a: Split, b: Split) -> int:
    """Count the samples that two splits are known to share.

    Samples are the same if they have the same index in the same dataset or in two datasets of the
    same files or arrays (one with augmentation, one without), or the same memory in a
    `TensorDataset`. Equal images in different datasets are not searched for.
    """
    mine, theirs = _places(a), _places(b)
    return sum(len(np.intersect1d(mine[key], theirs[key])) for key in mine.keys() & theirs.keys())


def _places(split: Split) -> Mapping[Hashable, Places]:
    found: dict[Hashable, list[Places]] = {}
    for key, places in _located(split, np.arange(len(split))):
        found.setdefault(key, []).append(places)
    return {key: np.concatenate(parts) for key, parts in found.items()}


@singledispatch
def _located(holder: Any, places: Places) -> Iterator[tuple[Hashable, Places]]:
    """Yield the innermost datasets of the samples at some indices, with their indices there."""
    if (inner := _only_dataset(holder)) is not None:
        yield from _located(inner, places)
    else:
        yield _source(holder), places


@_located.register
def _(holder: DatasetSplit, places: Places) -> Iterator[tuple[Hashable, Places]]:
    yield from _located(holder.dataset, places)


@_located.register
def _(holder: PartOfSplit, places: Places) -> Iterator[tuple[Hashable, Places]]:
    yield from _located(holder.split, holder.indices[places])


@_located.register(Subset)
def _(holder: Subset[Any], places: Places) -> Iterator[tuple[Hashable, Places]]:
    yield from _located(holder.dataset, np.asarray(holder.indices, dtype=np.int64)[places])


@_located.register(ConcatDataset)
def _(holder: ConcatDataset[Any], places: Places) -> Iterator[tuple[Hashable, Places]]:
    ends = np.asarray(holder.cumulative_sizes)
    which = np.searchsorted(ends, places, side="right")
    for number, (part, start) in enumerate(zip(holder.datasets, [0, *ends[:-1]], strict=True)):
        yield from _located(part, places[which == number] - start)


@_located.register
def _(holder: TensorDataset, places: Places) -> Iterator[tuple[Hashable, Places]]:
    rows = holder.tensors[0]
    # Two datasets may hold the same tensor, or overlapping parts of one.
    yield str(rows.device), rows.data_ptr() + places * rows.stride(0) * rows.element_size()


def _source(holder: Any) -> Hashable:
    """Return a key shared by datasets of the same samples; an `id` if nothing identifies them."""
    held = dict(getattr(holder, "__dict__", {}))
    columns = {name: value for name, value in held.items() if _tells(value, len(holder))}
    if not columns:
        return id(holder)
    rows = np.linspace(0, len(holder) - 1, min(len(holder), COMPARED)).astype(int)
    texts = {name: value for name, value in held.items() if isinstance(value, (str, os.PathLike))}
    found = [(name, [_text(value[row]) for row in rows]) for name, value in columns.items()]
    return type(holder), len(holder), repr(sorted(found)), repr(sorted(texts.items()))


def _tells(value: Any, samples: int) -> bool:
    """Say whether an attribute names the file, or holds the array, of every sample."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim > 1 and len(value) == samples
    if not isinstance(value, (list, tuple)) or len(value) != samples or not samples:
        return False
    first = value[0] if isinstance(value[0], (list, tuple)) else [value[0]]
    return any(isinstance(one, (str, os.PathLike)) for one in first)


def _text(row: Any) -> str:
    if isinstance(row, (np.ndarray, Tensor)):
        return hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest()
    return repr(row)


def _only_dataset(holder: Any) -> Any:
    """Return the only dataset of equal length that another one wraps; None if there is none."""
    held = [one for one in getattr(holder, "__dict__", {}).values() if isinstance(one, Dataset)]
    alike = len(held) == 1 and hasattr(held[0], "__len__") and len(held[0]) == len(holder)
    return held[0] if alike else None
