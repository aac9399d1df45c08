"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.data.normalization import parse_normalization
from autoprune.data.splits import ArraySplit, Splits


def load_digits(argument: str, normalize: str | None) -> Splits:
    """Return scikit-learn's embedded digits: 8x8 gray, 1197 train, 300 val and 300 test images.

    The 17 gray levels are stored as uint8, which moves a value in [0, 1] by at most 1/510.

    Args:
        argument: empty, for there is nothing to choose.
        normalize: see `parse_normalization`.
    """
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    normalization = parse_normalization(normalize, channels=1)
    order = _class_balanced_order(labels)
    val, test, train = (
        ArraySplit(images[part], labels[part], normalization, may_mirror=False)
        for part in np.split(order, [300, 600])
    )
    return Splits(train, val, test)


def _class_balanced_order(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Shuffle so that every range of indices has nearly equal numbers of all classes."""
    # RandomState's stream is the same in all NumPy versions; the demo's weights rely on this split.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = labels[shuffled] == label
        rank[members] = np.arange(members.sum())
    order: npt.NDArray[np.intp] = shuffled[np.argsort(rank, kind="stable")]
    return order
