"""Class labels: one-hot conversion, and checks against a network's outputs."""

from __future__ import annotations

import torch

from autoprune.data.samples import NO_LABEL, Samples
from autoprune.errors import DataError, counted, spelt


def with_class_labels(samples: Samples) -> Samples:
    """Return samples with one-hot targets (n, classes) converted to class labels (n,)."""
    targets = samples.targets
    if targets is None or targets.dim() != 2 or targets.shape[1] < 2:
        return samples
    ones = targets == 1
    if not ((ones | (targets == 0)).all() and (ones.sum(1) == 1).all()):
        return samples
    return Samples(samples.inputs, ones.long().argmax(1))


def check_labels(samples: Samples, classes: int) -> None:
    """Check that labels fit a classifier; missing labels and `NO_LABEL` are allowed.

    Raises:
        DataError: the targets are not int64 of shape (n,), or one is outside [0, classes).
    """
    labels = samples.targets
    if labels is None:
        return
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise DataError(
            f"labels must be whole numbers of shape (n,), or one-hot, but got {labels.dtype} of "
            f"shape {tuple(labels.shape)}; for a task that is not classification pass "
            f"{spelt('evaluate')}."
        )
    outside = labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= classes))]
    if len(outside):
        raise DataError(
            f"label {int(outside[0])} is outside the network's {counted(classes, 'class')} (0 to "
            f"{classes - 1}); labels need not reach every class, but none may lie outside; a "
            f"sample without a label has {NO_LABEL}."
        )


def check_classes(numbered: int | None, outputs: int) -> None:
    """Check that the number of classes in the data is the number of a network's outputs.

    Args:
        numbered: number of class folders, or of names in a classes file; None if the labels do
            not come from either.
        outputs: number of the network's outputs.

    Raises:
        DataError: the numbers differ, so that the class of an output is not known.
    """
    if numbered in (None, outputs):
        return
    raise DataError(
        f"the data has {numbered:,} classes but the network has {outputs:,} outputs, so that which "
        "output a label means is not known: give --classes FILE (a class name per line, in the "
        "order of the outputs); in Python, labels that are positions of outputs. Images in no "
        "class folder need no labels."
    )
