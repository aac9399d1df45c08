"""What a model spec says by itself, without PyTorch and without loading the network."""

from __future__ import annotations

from autoprune.core.plugins import absolute_object
from autoprune.models import MODEL_FORMS


def absolute_model(spec: str) -> str:
    """Return a spec with absolute paths, so that it means the same in any folder."""
    return spec if spec.partition(":")[0] in MODEL_FORMS else absolute_object(spec)


def has_random_weights(spec: str, weights: str | None) -> bool:
    """Say whether a network certainly has random weights."""
    return weights is None and spec.partition(":")[0] in ("torchvision", "timm")
