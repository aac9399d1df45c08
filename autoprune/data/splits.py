"""Splits: samples that are fetched on demand, from arrays, datasets or other splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from autoprune.data.batches import batch_samples, data_errors
from autoprune.data.forms import Inputs, described
from autoprune.data.normalization import Normalization
from autoprune.data.samples import Samples
from autoprune.errors import DataError, counted

SPLIT_NAMES = ("train", "val", "test")

Collate = Callable[[list[Any]], Any]
Augment: TypeAlias = Callable[[Tensor], Tensor]
"""Random change of one image: uint8 (channels, height, width) → the same, perhaps resized."""


@dataclass(frozen=True)
class Pictures:
    """What is known of images that autoprune reads itself.

    Attributes:
        size: height and width as the network takes them, pixels.
        is_cropped: whether what is read is larger, and of any size, so that a part is cut out.
        may_mirror: whether a mirrored image shows the same thing, which digits do not.
        channels: of an image.
    """

    size: tuple[int, int]
    is_cropped: bool = False
    may_mirror: bool = True
    channels: int = 3


class Split(ABC):
    """Samples that are fetched on demand.

    Attributes:
        classes: number of classes that the labels number; None if not known.
    """

    classes: int | None = None

    @property
    def pictures(self) -> Pictures | None:
        """What is known of the images; None where others read them, or there are none."""
        return None

    def augmented(self, augment: Augment) -> Split:
        """Return the same samples with a change of every image, made when it is read.

        Raises:
            DataError: `pictures` is None.
        """
        raise DataError("images that autoprune does not read itself cannot be augmented.")

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch samples by index, in the order given.

        Raises:
            DataError: the data does not yield (inputs, targets).
        """

    def batches(self, size: int) -> Iterator[Samples]:
        """Yield all samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


class ArraySplit(Split):
    """uint8 images, converted to float32 when taken: a quarter of the memory of floats."""

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        normalization: Normalization,
        may_mirror: bool = True,
        augment: Augment | None = None,
    ) -> None:
        """Hold images of shape (n, height, width, channels) and labels of shape (n,).

        Args:
            images: the images.
            labels: their classes.
            normalization: of the values in [0, 1].
            may_mirror: see `Pictures`.
            augment: changes every image.
        """
        self.images = images
        self.labels = labels
        self.normalization = normalization
        self.may_mirror = may_mirror
        self.augment = augment

    @property
    def pictures(self) -> Pictures:
        """What is known of the images."""
        height, width, channels = self.images.shape[1:]
        return Pictures((height, width), may_mirror=self.may_mirror, channels=channels)

    def augmented(self, augment: Augment) -> ArraySplit:
        """Return the same images, changed."""
        return ArraySplit(self.images, self.labels, self.normalization, self.may_mirror, augment)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> Samples:
        """Return inputs of shape (n, channels, height, width), normalised float32."""
        chosen = torch.from_numpy(self.images[list(indices)]).permute(0, 3, 1, 2)
        if self.augment is not None:
            chosen = torch.stack([self.augment(image) for image in chosen])
        images = chosen.to(torch.float32).div_(255)
        labels = torch.from_numpy(self.labels[list(indices)])
        return Samples(self.normalization(images).contiguous(), labels)


class DatasetSplit(Split):
    """A map-style dataset with the function that collates its items."""

    def __init__(
        self, dataset: Any, collate: Collate = default_collate, classes: int | None = None
    ) -> None:
        """Hold a dataset with `__len__` and `__getitem__`."""
        self.dataset = dataset
        self.collate = collate
        self.classes = classes

    def __len__(self) -> int:
        with data_errors("the dataset's length is not known"):
            return len(self.dataset)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch and collate items, and read the batch with `batch_samples`."""
        length, items = len(self), []
        for index in indices:
            with data_errors(f"sample {index} of {length} cannot be read"):
                items.append(self.dataset[index])
        with data_errors("samples cannot make one batch"):
            batch = self.collate(items)
        samples = batch_samples(batch)
        if len(samples) != len(items):
            raise DataError(
                f"a batch made of {counted(len(items), 'sample')} is of shape "
                f"{described(samples.inputs)}: its first dimension must be the samples'."
            )
        return samples


class SamplesSplit(Split):
    """Samples in memory."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, indices: Sequence[int]) -> Samples:
        """Return copies of the samples."""
        return self.samples[list(indices)]


class ChangedSplit(Split):
    """A split whose samples are changed when they are taken."""

    def __init__(self, split: Split, change: Callable[[Samples], Samples]) -> None:
        self.split = split
        self.change = change
        self.classes = split.classes

    @property
    def pictures(self) -> Pictures | None:
        """What is known of the images."""
        return self.split.pictures

    def augmented(self, augment: Augment) -> ChangedSplit:
        """Return the same samples, augmented before they are changed."""
        return ChangedSplit(self.split.augmented(augment), self.change)

    def __len__(self) -> int:
        return len(self.split)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch samples and change them."""
        return self.change(self.split.take(indices))


class PartOfSplit(Split):
    """Some samples of a split."""

    def __init__(self, split: Split, indices: npt.NDArray[np.int64]) -> None:
        """Hold a split and the indices of its samples, in order."""
        self.split = split
        self.indices = indices
        self.classes = split.classes

    @property
    def pictures(self) -> Pictures | None:
        """What is known of the images."""
        return self.split.pictures

    def augmented(self, augment: Augment) -> PartOfSplit:
        """Return the same part of the augmented split."""
        return PartOfSplit(self.split.augmented(augment), self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Sequence[int]) -> Samples:
        """Fetch samples by their index in this part."""
        return self.split.take(self.indices[list(indices)].tolist())


@dataclass(frozen=True, eq=False)
class Splits:
    """The splits of a data source.

    Attributes:
        train: samples for calibration.
        val: samples that the network was not trained on, for search and selection.
        test: samples for the final score only.
        notes: what is used differently from what was given, for the user to read.

    Raises:
        DataError: a split is empty.
    """

    train: Split
    val: Split | None = None
    test: Split | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, named: Mapping[str, Split], notes: Sequence[str] = ()) -> Splits:
        """Make splits from a mapping that holds at least "train"."""
        return cls(named["train"], named.get("val"), named.get("test"), tuple(notes))

    def __post_init__(self) -> None:
        for name in SPLIT_NAMES:
            split: Split | None = getattr(self, name)
            if split is not None and not len(split):
                raise DataError(f"the {name} split is empty: it needs at least one sample.")

    def changed(self, change: Callable[[Inputs], Inputs]) -> Splits:
        """Return splits in which a function changes the inputs of every sample."""
        return self._changed(lambda samples: replace(samples, inputs=change(samples.inputs)))

    def without_annotations(self) -> Splits:
        """Return splits for those who do not read annotations, which may take much memory."""
        return self._changed(lambda samples: replace(samples, annotations=None))

    def _changed(self, change: Callable[[Samples], Samples]) -> Splits:
        parts = ((name, getattr(self, name)) for name in SPLIT_NAMES)
        changed = {name: ChangedSplit(own, change) for name, own in parts if own is not None}
        return Splits.of(changed, self.notes)
