"""The samples of its dataset that a loader can draw, for any sampler."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from autoprune.core.randomness import kept_random_states
from autoprune.errors import DataError, user_code

# Passes over an unknown sampler, which may draw other samples in each.
PASSES = 4
# A sampler that draws more than this many times the dataset's length is taken to be endless.
ENDLESS = 4


@dataclass(frozen=True, eq=False)
class Pool:
    """The samples that a loader can draw.

    Attributes:
        indices: indices in its dataset, ascending and unique.
        remark: what the sampler does that is ignored here; empty if nothing.
    """

    indices: npt.NDArray[np.int64]
    remark: str = ""


def pool_of(loader: DataLoader[Any], length: int) -> Pool | None:
    """Return the samples that a loader of a map-style dataset can draw, without drawing any.

    The random states of the sampler, Python, NumPy and PyTorch are left unchanged.

    Args:
        loader: a loader with a batch sampler.
        length: length of its dataset.

    Returns:
        The pool; None if samples are not indexed by integers.

    Raises:
        DataError: the sampler fails.
    """
    batches: Any = loader.batch_sampler
    single = type(batches) is BatchSampler
    sampler = batches.sampler if single else batches
    known = _KNOWN.get(type(sampler))

    def failed(reason: str) -> DataError:
        return DataError(f"the sampler {type(sampler).__name__} fails: {reason}")

    try:
        with user_code(failed, passes=(_NotIntegers,)):
            if known is not None:
                indices, remark = known(sampler)
            else:
                draws = iter if single else chain.from_iterable
                indices, remark = _read(sampler, draws, loader.dataset, length)
            places = _integers(indices)
    except _NotIntegers:
        return None
    return Pool(np.unique(np.where(places < 0, places + length, places)), remark)


def _sequential(sampler: SequentialSampler) -> tuple[Iterable[int], str]:
    return range(len(sampler.data_source)), ""


def _at_random(sampler: RandomSampler) -> tuple[Iterable[int], str]:
    size = len(sampler.data_source)
    if sampler.replacement:
        return range(size), "draws with replacement"
    return range(size), "" if sampler.num_samples >= size else "draws a random part every time"


def _by_weight(sampler: WeightedRandomSampler) -> tuple[Iterable[int], str]:
    return torch.as_tensor(sampler.weights).nonzero()[:, 0].tolist(), "draws by weights"


def _distributed(sampler: DistributedSampler[Any]) -> tuple[Iterable[int], str]:
    return range(len(sampler.dataset)), "gives every process a part"  # type: ignore[arg-type]


# Samplers whose attributes say what they can draw; a subclass may draw something else.
_KNOWN: Mapping[type, Callable[[Any], tuple[Iterable[int], str]]] = {
    SequentialSampler: _sequential,
    RandomSampler: _at_random,
    SubsetRandomSampler: lambda sampler: (sampler.indices, ""),
    WeightedRandomSampler: _by_weight,
    DistributedSampler: _distributed,
}


def _read(
    sampler: Any, draws: Callable[[Any], Iterable[Any]], dataset: Any, length: int
) -> tuple[Iterable[int], str]:
    """Run an unknown sampler and return what it draws.

    Args:
        sampler: sampler of samples or of batches.
        draws: returns its samples, one by one.
        dataset: dataset that is sampled.
        length: length of the dataset.
    """
    most = ENDLESS * max(length, 1)
    with kept_random_states():
        twin = _copied(sampler, dataset)
        first = _integers(islice(draws(twin), most + 1))
        if len(first) > most:
            return first[:most], f"draws without end ({most} draws were looked at)"
        more = (_integers(islice(draws(twin), most)) for _ in range(PASSES - 1))
        passes = [first, *more]
    varies = any(not np.array_equal(np.unique(one), np.unique(first)) for one in passes)
    return np.concatenate(passes), "draws other samples every time" if varies else ""


def _copied(sampler: Any, dataset: Any) -> Any:
    """Copy a sampler with its random state, but without the data that it holds."""
    held = [one for one in getattr(sampler, "__dict__", {}).values() if isinstance(one, Dataset)]
    shared = {id(one): one for one in (dataset, *held)}
    try:
        return copy.deepcopy(sampler, shared)
    except Exception:  # it holds an open file, a lock, a generator
        return sampler


class _NotIntegers(Exception):
    """A sampler draws something other than integers."""


def _integers(indices: Iterable[Any]) -> npt.NDArray[np.int64]:
    try:
        return np.fromiter(map(operator.index, indices), np.int64)
    except TypeError as error:
        raise _NotIntegers from error
