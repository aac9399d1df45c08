"""Shapes of a network's inputs: read from text, or the default for a network."""

from __future__ import annotations

from torch import nn

from autoprune.errors import UsageError
from autoprune.models import DEMO

IMAGENET_SHAPE = (3, 224, 224)


def parse_shape(text: str) -> tuple[int, ...]:
    """Parse the shape of one input, such as "3x224x224".

    Raises:
        UsageError: the text is malformed, or a length is zero.
    """
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"input shape {text!r} is not the shape of one input: write e.g. 3x224x224 "
            "(channels x height x width)."
        )
    return tuple(int(part) for part in parts)


def declared_image_size(model: nn.Module) -> int | None:
    """Return the side of the square images that a network says it takes; None if it says nothing.

    Networks of timm say it in `pretrained_cfg`, those of Hugging Face in `config.image_size`.
    """
    shape = getattr(model, "pretrained_cfg", {}).get("input_size")
    size = shape[-1] if shape else getattr(getattr(model, "config", None), "image_size", None)
    return size if isinstance(size, int) else None


def default_input_shape(spec: str, model: nn.Module) -> tuple[int, ...]:
    """Return the shape of one input, without the batch, that a network takes by default."""
    if spec == DEMO:
        return (1, 8, 8)
    # Networks from timm declare their input size; else the first convolution gives the channels.
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    channels = next((m.in_channels for m in convolutions), IMAGENET_SHAPE[0])
    usual = (channels, *IMAGENET_SHAPE[1:])
    return tuple(getattr(model, "pretrained_cfg", {}).get("input_size", usual))
