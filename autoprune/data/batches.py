"""Reading of batches that the user's data yields."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from autoprune.data.forms import described, plain, tensors
from autoprune.data.samples import Samples
from autoprune.errors import AutopruneError, DataError, user_code

# Names of the targets in a batch that is a mapping.
TARGETS = ("labels", "label", "targets", "target")


def batch_samples(batch: Any) -> Samples:
    """Read a collated batch.

    A batch is (inputs, targets), (inputs,) or inputs alone. Of three parts or more the last is the
    targets, and the others are positional inputs. In a mapping the targets have one of the names in
    `TARGETS`, and every other entry is an input by its name. Integer labels become int64. A list of
    images with a dict for each of them, as torchvision's detectors are trained on, is one batch of
    images, which must be of one size; the dicts are their annotations. Other targets that are not
    tensors (strings) are dropped: only the user's own evaluation could read them.

    Raises:
        DataError: the batch has another structure, or its inputs are not tensors of equal length.
    """
    given, targets = _parts(batch)
    is_detection = _is_detection(given, targets)
    inputs = _stacked(given) if is_detection else plain(given)
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
        return Samples(inputs, None, tuple(targets) if is_detection else None)
    samples = Samples(inputs, _widen_labels(targets))
    if len(targets) != len(samples):
        raise DataError(f"a batch has {len(samples)} inputs but {len(targets)} targets.")
    return samples


def _parts(batch: Any) -> tuple[Any, Any]:
    """Return a batch's inputs and its targets (None if it has none)."""
    if isinstance(batch, Mapping):
        named = next((key for key in TARGETS if key in batch), None)
        return {key: value for key, value in batch.items() if key != named}, batch.get(named)
    if not isinstance(batch, (tuple, list)) or not batch:
        return batch, None
    *inputs, targets = (*batch, None) if len(batch) == 1 else batch
    return inputs[0] if len(inputs) == 1 else inputs, targets


def _is_detection(inputs: Any, targets: Any) -> bool:
    """Say whether a batch is a list of images with a dict (boxes, masks, …) for each of them."""
    lists = isinstance(inputs, (tuple, list)) and isinstance(targets, (tuple, list))
    return (
        lists
        and len(inputs) == len(targets) > 0
        and all(isinstance(one, Tensor) and one.dim() == 3 for one in inputs)
        and all(isinstance(one, Mapping) for one in targets)
    )


def _stacked(images: Any) -> Tensor:
    """Make one tensor of a list of images (channels, height, width).

    Raises:
        DataError: they differ in size.
    """
    shapes = list(dict.fromkeys(tuple(one.shape) for one in images))
    if len(shapes) > 1:
        raise DataError(
            f"images of a batch differ in size: {shapes[0]} and {shapes[1]}; resize or pad them to "
            "one size in the data for the search (your own evaluate may read images of any size)."
        )
    return torch.stack(list(images))


def _widen_labels(targets: Tensor) -> Tensor:
    whole = not (targets.is_floating_point() or targets.is_complex())
    column = targets.dim() == 2 and targets.shape[1] == 1
    if not whole or not (column or targets.dim() == 1):
        return targets
    return targets.long().reshape(len(targets))


def data_errors(fault: str) -> AbstractContextManager[None]:
    """Return a context that turns any exception of the user's code into a one-line `DataError`."""
    return user_code(lambda reason: DataError(f"{fault}: {reason}"), passes=(AutopruneError,))
