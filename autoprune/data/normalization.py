"""Per-channel normalisation of images, and the specs that name it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Normalization:
    """Maps images in [0, 1] to (image − mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Number of channels that an image must have."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images of shape (..., channels, height, width) in [0, 1]."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (images - mean[:, None, None]) / std[:, None, None]


NAMED = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def parse_normalization(spec: str | None, channels: int) -> Normalization:
    """Parse a normalisation spec for images with a number of channels.

    Args:
        spec: `imagenet`, `cifar10`, `none` (scale to [0, 1] and no more) or `MEAN,…/STD,…`.
            None means `imagenet` for 3 channels and `none` for any other number.
        channels: channels of the images.

    Raises:
        UsageError: the name is unknown, the numbers are malformed, their count is not the number of
            channels, or a standard deviation is not positive.
    """
    if spec is None:
        spec = "imagenet" if channels == 3 else "none"
    if spec == "none":
        return Normalization((0.0,) * channels, (1.0,) * channels)
    normalization = _parse_numbers(spec) if "/" in spec else _named(spec)
    if normalization.channels != channels:
        raise UsageError(
            f"normalization {spec!r} is for {normalization.channels} channels, but the images have "
            f"{channels}: give {channels} means and {channels} standard deviations, or 'none'."
        )
    return normalization


def _named(spec: str) -> Normalization:
    if spec not in NAMED:
        hint = did_you_mean(spec, [*NAMED, "none"], ["MEAN,…/STD,…"])
        raise UsageError(f"unknown normalization {spec!r}: {hint}")
    return NAMED[spec]


def _parse_numbers(spec: str) -> Normalization:
    example = "write for example 0.5,0.5,0.5/0.2,0.2,0.2."
    try:
        mean, std = (tuple(float(x) for x in half.split(",")) for half in spec.split("/"))
    except ValueError:
        raise UsageError(
            f"normalization {spec!r} is not means/standard deviations: {example}"
        ) from None
    if len(mean) != len(std):
        raise UsageError(
            f"normalization {spec!r} has {len(mean)} means but {len(std)} standard deviations: "
            f"{example}"
        )
    if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UsageError(
            f"normalization {spec!r}: means must be finite and standard deviations finite and "
            f"greater than 0; {example}"
        )
    return Normalization(mean, std)
