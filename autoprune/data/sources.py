"""Data sources that `--data` names, one loader per form of the spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from autoprune.core.plugins import absolute, absolute_object, make_object, names_object
from autoprune.data.cifar import load_cifar10
from autoprune.data.folder import load_image_folder
from autoprune.data.normalization import parse_normalization
from autoprune.data.npz import absolute_files, load_npz
from autoprune.data.splits import ArraySplit, Splits
from autoprune.data.user import as_splits
from autoprune.errors import UsageError, did_you_mean

Loader: TypeAlias = Callable[[str, str | None], Splits]
"""(argument after the colon, normalisation spec) → splits."""


def load_digits(argument: str, normalize: str | None) -> Splits:
    """Return scikit-learn's embedded digits: 8x8 gray, 1197 train, 300 val and 300 test images.

    The 17 gray levels are stored as uint8, which moves a value in [0, 1] by at most 1/510.

    Raises:
        UsageError: there is an argument.
    """
    if argument:
        raise UsageError(f"digits takes no argument, but got {argument!r}: write just digits.")
    from sklearn.datasets import load_digits as load_sklearn_digits

    digits = load_sklearn_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    normalization = parse_normalization(normalize, channels=1)
    order = _class_balanced_order(labels)
    val, test, train = (
        ArraySplit(images[part], labels[part], normalization)
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


FORMS: dict[str, Loader] = {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "imagefolder": load_image_folder,
    "npz": load_npz,
}


def load_splits(spec: str, normalize: str | None = None, classes: str | None = None) -> Splits:
    """Load the data that a spec names.

    Args:
        spec: `digits`, `cifar10:DIR`, `imagefolder:DIR`, `npz:FILE[,FILE…][;val=…][;test=…]`,
            `path/to/file.py:factory` or `package.module:factory`; the factory, called without
            arguments, returns what `as_splits` takes.
        normalize: see `parse_normalization`.
        classes: only with `imagefolder`: a text file with a class name per line, in the order of
            the network's outputs; the line number of a class folder, from 0, is its label.

    Raises:
        UsageError: the spec or the normalisation is malformed, or something is missing.
        DataError: the data is damaged or cannot be used.
    """
    form, colon, argument = spec.partition(":")
    if classes is not None:
        if not reads_classes(spec):
            raise UsageError(f"classes are names of class folders: data {spec!r} has none.")
        return load_image_folder(argument, normalize, classes)
    if form in FORMS:
        if not argument and (colon or form != "digits"):
            raise UsageError(
                f"data {spec!r} lacks its argument after the colon: see {form} in --help."
            )
        return FORMS[form](argument, normalize)
    if names_object(spec):
        return _from_factory(spec, normalize)
    raise UsageError(
        f"unknown data {spec!r}: {did_you_mean(form, FORMS)} "
        f"(Your own data: path/to/file.py:factory or package.module:factory.)"
    )


def reads_classes(spec: str) -> bool:
    """Say whether data has class folders, which a classes file can map to outputs."""
    form, _, argument = spec.partition(":")
    return form == "imagefolder" and bool(argument)


def _from_factory(spec: str, normalize: str | None) -> Splits:
    if normalize is not None:
        raise UsageError(
            f"normalization {normalize!r} does not apply to data {spec!r}: "
            f"the factory's own transforms normalise."
        )
    return as_splits(make_object(spec, "data"))


# Functions that make the paths in an argument absolute, by form.
_ABSOLUTE: dict[str, Callable[[str], str]] = {
    "cifar10": absolute,
    "imagefolder": absolute,
    "npz": absolute_files,
}


def absolute_data(spec: str) -> str:
    """Return a spec with absolute paths, so that it means the same in any folder."""
    form, _, argument = spec.partition(":")
    if form in FORMS:
        return f"{form}:{_ABSOLUTE[form](argument)}" if argument else spec
    return absolute_object(spec)
