"""Photos of any size, brought to one size and normalised when they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from autoprune.data.normalization import Normalization
from autoprune.data.splits import Augment, DatasetSplit, Pictures
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

USUAL_SIZE = 224
# The shorter side that photos are resized to before the centre is cut out, relative to its side.
MARGIN = 256 / 224


@dataclass(frozen=True, eq=False)
class Photos:
    """Where the photos of a split come from.

    Attributes:
        open: reads a photo by its index, as RGB.
        labels: of every photo, None where it has none.
        classes: number of classes that the labels number; None if not known.
    """

    open: Callable[[int], Image]
    labels: Sequence[int | None]
    classes: int | None = None


@dataclass(frozen=True)
class PhotoForm:
    """What photos are brought to.

    Attributes:
        normalization: of the values in [0, 1].
        size: side of the square that the network takes, pixels.
    """

    normalization: Normalization
    size: int = USUAL_SIZE


class PhotoSplit(DatasetSplit):
    """Photos, resized and cropped to their central square, or augmented."""

    def __init__(self, photos: Photos, form: PhotoForm, augment: Augment | None = None) -> None:
        """Hold photos.

        Args:
            photos: where they come from.
            form: what they are brought to.
            augment: takes the place of resizing and cropping.

        Raises:
            UsageError: torchvision is not installed.
        """
        read = _central(form) if augment is None else _changed(augment, form)
        super().__init__(_Items(photos, read), classes=photos.classes)
        self._photos, self._form = photos, form

    @property
    def pictures(self) -> Pictures:
        """What is known of the images."""
        return Pictures((self._form.size, self._form.size), is_cropped=True)

    def augmented(self, augment: Augment) -> PhotoSplit:
        """Return the same photos, each of them changed."""
        return PhotoSplit(self._photos, self._form, augment)


class _Items(Dataset[Any]):
    """Images with their labels; without labels the items are images alone."""

    def __init__(self, photos: Photos, read: Callable[[Image], Tensor]) -> None:
        self._photos, self._read = photos, read

    def __len__(self) -> int:
        return len(self._photos.labels)

    def __getitem__(self, index: int) -> Any:
        label, image = self._photos.labels[index], self._read(self._photos.open(index))
        return image if label is None else (image, label)


def _central(form: PhotoForm) -> Callable[[Image], Tensor]:
    try:
        from torchvision import transforms
    except ImportError as error:
        raise UsageError("photos need torchvision: pip install autoprune[vision].") from error
    steps = [
        transforms.Resize(round(form.size * MARGIN)),
        transforms.CenterCrop(form.size),
        transforms.ToTensor(),
        form.normalization,
    ]
    read: Callable[[Image], Tensor] = transforms.Compose(steps)
    return read


def _changed(augment: Augment, form: PhotoForm) -> Callable[[Image], Tensor]:
    from torchvision.transforms.functional import pil_to_tensor

    return lambda photo: form.normalization(augment(pil_to_tensor(photo)).float() / 255)
