"""Images in memory (`Samples`) and images to be fetched (`Split`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from autoprune.data.forms import Inputs, described, map_tensors, plain, tensors
from autoprune.data.normalization import Normalization
from autoprune.errors import AutopruneError, DataError, user_code

# Of the inputs of one batch: a network's activations take many times as much.
BATCH_BYTES = 40_000_000

SPLIT_NAMES = ("train", "val", "test")

# PyTorch's own mark of a sample without a label, among others that have one.
NO_LABEL = -100

# What the targets are called in a batch that is a mapping.
TARGETS = ("labels", "label", "targets", "target")

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and targets in memory.

    Attributes:
        inputs: as the network takes them: a tensor of shape (n, ...), or tuples (positional
            arguments) and dicts (keyword arguments) of such.
        targets: int64 labels of shape (n,); any tensor of n rows where the task is not
            classification; None where there are none.
    """

    inputs: Inputs
    targets: Tensor | None

    def __len__(self) -> int:
        return len(tensors(self.inputs)[0])

    def __getitem__(self, rows: slice | Sequence[int]) -> Samples:
        targets = None if self.targets is None else self.targets[rows]
        return Samples(map_tensors(lambda one: one[rows], self.inputs), targets)

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """Return the samples of several one after the other, labelled if all of them are.

        Raises:
            DataError: their inputs differ in form or shape.
        """
        labels = [part.targets for part in parts if part.targets is not None]
        try:
            inputs = map_tensors(lambda *own: torch.cat(own), *(part.inputs for part in parts))
            return cls(inputs, torch.cat(labels) if len(labels) == len(parts) else None)
        except (RuntimeError, ValueError) as error:
            shapes = sorted({described(part.first(1).inputs) for part in parts})
            raise DataError(f"batches differ in shape: {' and '.join(shapes[:2])}.") from error

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return tensors(self.inputs)[0].device

    @property
    def sample_bytes(self) -> int:
        """Memory that the inputs of one sample take, at least a byte."""
        return max(1, sum(one[:1].nbytes for one in tensors(self.inputs)))

    @property
    def shape(self) -> str:
        """The shapes of the inputs of one sample, in words."""
        return described(map_tensors(lambda one: one[0], self.inputs))

    def finite(self) -> Tensor:
        """Return whether all of a sample's numbers are finite, (n,)."""
        found = [one.isfinite().reshape(len(self), -1).all(1) for one in tensors(self.inputs)]
        return torch.stack(found).all(0)

    @property
    def labelled(self) -> bool:
        """Whether the targets are class labels, `NO_LABEL` not everywhere."""
        labels = self.targets
        if labels is None or labels.dim() != 1 or labels.dtype != torch.int64:
            return False
        return bool((labels != NO_LABEL).any())

    def with_unlabelled(self, others: Samples) -> Samples:
        """Return these samples and others: `NO_LABEL` for the latter where these have labels."""
        none = None if self.targets is None else self.targets.new_full((len(others),), NO_LABEL)
        return Samples.join([self, Samples(others.inputs, none)])

    def first(self, n: int) -> Samples:
        """Return the first n samples (all, where there are fewer), sharing memory."""
        return self[:n]

    def batches(self, size: int) -> Iterator[Samples]:
        """Yield all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def parts(self, size: int, at_once: int = 1) -> int:
        """Return how many batches the samples make, of at most `size` samples each.

        So many of them at once take `BATCH_BYTES` at most.
        """
        each = at_once * self.sample_bytes
        return -(-len(self) // max(1, min(size, BATCH_BYTES // each)))

    def batches_within(self, size: int, at_once: int = 1) -> Iterator[Samples]:
        """Yield all samples in order, in `parts` batches of nearly equal size."""
        return self.batches(-(-len(self) // self.parts(size, at_once)))

    def to(self, device: torch.device | str) -> Samples:
        """Return the samples on a device, images channels last: convolutions run faster on them."""

        def moved(one: Tensor) -> Tensor:
            layout = torch.channels_last if one.dim() == 4 else torch.preserve_format
            return one.to(device, memory_format=layout)

        targets = None if self.targets is None else self.targets.to(device)
        return Samples(map_tensors(moved, self.inputs), targets)


class Split(ABC):
    """Images that are fetched when they are asked for.

    Attributes:
        classes: how many classes the labels number; None where that is not known.
    """

    classes: int | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch samples by index, in the order given.

        Raises:
            DataError: what is found there is not (inputs, targets).
        """

    def batches(self, size: int) -> Iterator[Samples]:
        """Yield all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


class ArraySplit(Split):
    """uint8 images that stay uint8 until taken: a quarter of the memory of floats."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        normalization: Normalization,
    ) -> None:
        """Hold images of shape (n, height, width, channels) and labels of shape (n,)."""
        self.images = images
        self.labels = labels
        self.normalization = normalization

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> Samples:
        """Return inputs of shape (n, channels, height, width), normalised float32."""
        chosen = torch.from_numpy(self.images[list(indices)])
        images = chosen.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        labels = torch.from_numpy(self.labels[list(indices)])
        return Samples(self.normalization(images).contiguous(), labels)


class DatasetSplit(Split):
    """Any map-style dataset, with the function that makes a batch of its items."""

    def __init__(
        self, dataset: Any, collate: Collate = default_collate, classes: int | None = None
    ) -> None:
        """Hold a dataset with `__len__` and `__getitem__`."""
        self.dataset = dataset
        self.collate = collate
        self.classes = classes

    def __len__(self) -> int:
        with explained("the dataset's length is not known"):
            return len(self.dataset)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch, collate and read the batch as `batch_samples` does."""
        length, items = len(self), []
        for index in indices:
            with explained(f"sample {index} of {length} cannot be read"):
                items.append(self.dataset[index])
        with explained("samples cannot make one batch"):
            batch = self.collate(items)
        samples = batch_samples(batch)
        if len(samples) != len(items):
            raise DataError(
                f"{len(items)} samples make a batch of shape {described(samples.inputs)}: its "
                "first dimension must be the samples'."
            )
        return samples


class SamplesSplit(Split):
    """Samples that are in memory already."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, indices: Sequence[int]) -> Samples:
        """Return copies of the samples."""
        return self.samples[list(indices)]


class ChangedSplit(Split):
    """The samples of a split with their inputs changed, as the network takes them."""

    def __init__(self, split: Split, change: Callable[[Inputs], Inputs]) -> None:
        self.split = split
        self.change = change
        self.classes = split.classes

    def __len__(self) -> int:
        return len(self.split)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch samples and change their inputs."""
        samples = self.split.take(indices)
        return Samples(self.change(samples.inputs), samples.targets)


class PartOfSplit(Split):
    """Some images of a split, fetched when they are asked for."""

    def __init__(self, split: Split, indices: npt.NDArray[np.int64]) -> None:
        """Hold a split and which of its images are meant, in order."""
        self.split = split
        self.indices = indices
        self.classes = split.classes

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch images by their place in this part."""
        return self.split.take(self.indices[list(indices)].tolist())


@dataclass(frozen=True, eq=False)
class Splits:
    """What a data source offers.

    Attributes:
        train: images for calibration.
        val: images that the network was not trained on, for search and selection.
        test: images for the final figure only.
        notes: what is used otherwise than it was given, for the user to read.

    Raises:
        DataError: a split is empty.
    """

    train: Split
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, named: Mapping[str, Split], notes: Sequence[str] = ()) -> Splits:
        """Return splits by their names, "train" at least."""
        return cls(named["train"], named.get("val"), named.get("test"), tuple(notes))

    def __post_init__(self) -> None:
        for name in SPLIT_NAMES:
            split: Split | None = getattr(self, name)
            if split is not None and not len(split):
                raise DataError(f"the {name} split is empty: it needs at least one sample.")

    def changed(self, change: Callable[[Inputs], Inputs]) -> Splits:
        """Return the splits with every sample's inputs changed."""
        parts = ((name, getattr(self, name)) for name in SPLIT_NAMES)
        changed = {name: ChangedSplit(own, change) for name, own in parts if own is not None}
        return Splits.of(changed, self.notes)


def batch_samples(batch: Any) -> Samples:
    """Read a collated batch.

    It is (inputs, targets), (inputs,) or inputs alone; of three parts or more the last are the
    targets, and the others are positional inputs. In a mapping the targets are called one of
    `TARGETS`, and everything else is an input by its name. Whole-number labels become int64.
    Targets that are no tensor (lists of boxes, strings) are left out: only the user's own
    evaluation could read them.

    Raises:
        DataError: the batch has another form, or its inputs are no tensors of the same samples.
    """
    given, targets = _parts(batch)
    inputs = plain(given)
    if any(one.dtype == torch.uint8 for one in tensors(inputs)):
        raise DataError(
            "inputs are uint8 but the network takes floats: convert and normalise them in the "
            "dataset's transform, as for training."
        )
    if isinstance(targets, (int, float)) or (isinstance(targets, Tensor) and not targets.dim()):
        raise DataError(
            f"a batch has the target {float(targets):g} and inputs of shape {described(inputs)}: "
            "it must have the samples in its first dimension."
        )
    if not isinstance(targets, Tensor):
        return Samples(inputs, None)
    samples = Samples(inputs, _widen_labels(targets))
    if len(targets) != len(samples):
        raise DataError(f"a batch has {len(samples)} inputs but {len(targets)} targets.")
    return samples


def _parts(batch: Any) -> tuple[Any, Any]:
    """Return a batch's inputs and what is in the place of its targets, None where nothing is."""
    if isinstance(batch, Mapping):
        named = next((key for key in TARGETS if key in batch), None)
        return {key: value for key, value in batch.items() if key != named}, batch.get(named)
    if not isinstance(batch, (tuple, list)) or not batch:
        return batch, None
    *inputs, targets = (*batch, None) if len(batch) == 1 else batch
    return inputs[0] if len(inputs) == 1 else inputs, targets


def _widen_labels(targets: Tensor) -> Tensor:
    whole = not (targets.is_floating_point() or targets.is_complex())
    column = targets.dim() == 2 and targets.shape[1] == 1
    if not whole or not (column or targets.dim() == 1):
        return targets
    return targets.long().reshape(len(targets))


def explained(fault: str) -> AbstractContextManager[None]:
    """Return what turns whatever the user's own code raises into one line, a `DataError`."""
    return user_code(lambda reason: DataError(f"{fault}: {reason}"), passes=(AutopruneError,))
