"""Random changes of training images, by torchvision's transforms."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from autoprune.data.splits import Augment, Pictures, Split
from autoprune.errors import UsageError
from autoprune.training.choices import AUTO, STANDARD, TRIVIAL, UNCHANGED

log = logging.getLogger(__name__)

# Padding of a padded crop, as a share of the image's side: 4 pixels of 32.
PADDING = 1 / 8
# Numbers of channels that the changes of colour in TrivialAugment are made for.
COLOURED = (1, 3)


def is_augmented(split: Split, name: str) -> bool:
    """Return whether `augmented` would change images.

    Args:
        split: the images.
        name: one of `choices.AUGMENTATIONS`.
    """
    return split.pictures is not None and name != UNCHANGED and (name != AUTO or _can_augment())


def suits_trivial(split: Split) -> bool:
    """Return whether TrivialAugment can change the images of a split."""
    return split.pictures is not None and split.pictures.channels in COLOURED


def augmented(split: Split, name: str) -> Split:
    """Return a split with a random change of every image, drawn from PyTorch's global generator.

    Images that the user's own code reads stay as they are: it augments them itself.

    Args:
        split: the images.
        name: one of `choices.AUGMENTATIONS`.

    Raises:
        UsageError: torchvision is not installed, or TrivialAugment does not suit the images.
    """
    if name == UNCHANGED:
        return split
    pictures = split.pictures
    if pictures is None:
        log.info("images are not augmented: the data's own code reads them (augment them there)")
        return split
    if name == AUTO and not _can_augment():
        log.info(
            "images are not augmented: that needs torchvision: pip install 'autoprune[vision]'"
        )
        return split
    if name == TRIVIAL and not suits_trivial(split):
        raise UsageError(
            f"augment={name} changes images of 1 or 3 channels, but these have "
            f"{pictures.channels}: choose {STANDARD}."
        )
    return split.augmented(_transform(pictures, STANDARD if name == AUTO else name))


def _can_augment() -> bool:
    try:
        from torchvision.transforms import v2  # noqa: F401
    except ImportError:
        return False
    return True


def _transform(pictures: Pictures, name: str) -> Augment:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise UsageError(
            f"augment={name} needs torchvision: pip install 'autoprune[vision]', or choose none."
        ) from error
    size = list(pictures.size)
    padding = [round(PADDING * side) for side in reversed(size)]
    parts: list[Any] = [
        v2.RandomResizedCrop(size, antialias=True)
        if pictures.is_cropped
        else v2.RandomCrop(size, padding=padding)
    ]
    if pictures.may_mirror:
        parts.append(v2.RandomHorizontalFlip())
    if name == TRIVIAL:
        parts.append(v2.TrivialAugmentWide())
    transform = v2.Compose(parts)

    def augment(image: Tensor) -> Tensor:
        changed: Tensor = transform(image)
        return changed

    return augment
