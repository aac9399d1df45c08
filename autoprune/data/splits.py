"""Images in memory (`Samples`) and images to be fetched (`Split`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from autoprune.data.normalization import Normalization
from autoprune.errors import DataError, first_line, type_of

# Of the inputs of one batch: a network's activations take many times as much.
BATCH_BYTES = 40_000_000

# PyTorch's own mark of a sample without a label, among others that have one.
NO_LABEL = -100

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs and targets in memory.

    Attributes:
        inputs: shape (n, ...), normalised floats as the network takes them.
        targets: int64 labels of shape (n,); any tensor of n rows where the task is not
            classification; None where there are none.
    """

    inputs: Tensor
    targets: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> Samples:
        targets = None if self.targets is None else self.targets[rows]
        return Samples(self.inputs[rows], targets)

    @property
    def labelled(self) -> bool:
        """Whether the targets are class labels."""
        labels = self.targets
        return labels is not None and labels.dim() == 1 and labels.dtype == torch.int64

    def with_unlabelled(self, inputs: Tensor) -> Samples:
        """Return these samples and further inputs: `NO_LABEL` where these have labels."""
        if self.targets is None:
            return Samples(torch.cat([self.inputs, inputs]), None)
        none = self.targets.new_full((len(inputs),), NO_LABEL)
        return Samples(torch.cat([self.inputs, inputs]), torch.cat([self.targets, none]))

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
        each = at_once * max(1, self.inputs[:1].nbytes)
        return -(-len(self) // max(1, min(size, BATCH_BYTES // each)))

    def batches_within(self, size: int, at_once: int = 1) -> Iterator[Samples]:
        """Yield all samples in order, in `parts` batches of nearly equal size."""
        return self.batches(-(-len(self) // self.parts(size, at_once)))

    def to(self, device: torch.device | str) -> Samples:
        """Return the samples on a device, images channels last: convolutions run faster on them."""
        images = self.inputs.dim() == 4
        layout = torch.channels_last if images else torch.preserve_format
        targets = None if self.targets is None else self.targets.to(device)
        return Samples(self.inputs.to(device, memory_format=layout), targets)


class Split(ABC):
    """Images that are fetched when they are asked for."""

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

    def __init__(self, dataset: Any, collate: Collate = default_collate) -> None:
        """Hold a dataset with `__len__` and `__getitem__`."""
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch, collate and read the batch as `batch_samples` does."""
        try:
            items = [self.dataset[i] for i in indices]
        except OSError as error:
            raise DataError(f"a sample cannot be read: {first_line(error)}") from error
        try:
            batch = self.collate(items)
        except (RuntimeError, TypeError) as error:
            raise DataError(f"samples cannot make one batch: {first_line(error)}") from error
        return batch_samples(batch)


class PartOfSplit(Split):
    """Some images of a split, fetched when they are asked for."""

    def __init__(self, split: Split, indices: npt.NDArray[np.int64]) -> None:
        """Hold a split and which of its images are meant, in order."""
        self.split = split
        self.indices = indices

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

    Raises:
        DataError: a split is empty.
    """

    train: Split
    val: Split | None = None
    test: Split | None = None

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if getattr(self, name) is not None and not getattr(self, name):
                raise DataError(f"the {name} split is empty: it needs at least one sample.")


def batch_samples(batch: Any) -> Samples:
    """Read a collated batch: (inputs, targets), (inputs,) or inputs alone.

    float64 becomes float32 and whole-number labels become int64. Targets that are no tensor (lists
    of boxes, strings) are left out: only the user's own evaluation could read them.

    Raises:
        DataError: the batch has another form, or its inputs are no tensor of images or features.
    """
    parts = (batch,) if isinstance(batch, Tensor) else batch
    if not isinstance(parts, (tuple, list)) or len(parts) not in (1, 2):
        raise DataError(f"a batch must be (inputs, targets) or inputs, but got {_describe(batch)}.")
    inputs = parts[0]
    if not isinstance(inputs, Tensor) or inputs.dim() == 0:
        raise DataError(f"a batch's inputs must be a tensor, but got {_describe(inputs)}.")
    if inputs.dtype == torch.uint8:
        raise DataError(
            "inputs are uint8 but the network takes floats: convert and normalise them in the "
            "dataset's transform, as for training."
        )
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    targets = parts[1] if len(parts) == 2 and isinstance(parts[1], Tensor) else None
    if targets is not None and len(targets) != len(inputs):
        raise DataError(f"a batch has {len(inputs)} inputs but {len(targets)} targets.")
    return Samples(inputs, None if targets is None else _widen_labels(targets))


def _widen_labels(targets: Tensor) -> Tensor:
    whole = not (targets.is_floating_point() or targets.is_complex())
    return targets.long() if whole and targets.dim() == 1 else targets


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type_of(value)} of {len(value)}"
    return type_of(value)
