"""Images in npz files: arrays `x` (uint8, NHWC) and `y` (whole numbers)."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from autoprune.core.plugins import absolute
from autoprune.data.normalization import parse_normalization
from autoprune.data.overlap import shared_note
from autoprune.data.sources import FORMS
from autoprune.data.splits import ArraySplit, Splits
from autoprune.errors import DataError, UsageError, counted, did_you_mean, file_fault

USAGE = f"npz:{FORMS['npz'].argument}"


def load_npz(argument: str, normalize: str | None) -> Splits:
    """Read `FILES[;val=FILES][;test=FILES]`, several files with commas between them.

    Raises:
        UsageError: the argument is malformed or a file is missing.
        DataError: a file is damaged or has wrong arrays, or test shares a file with another split.
    """
    files = _parse_files(argument)
    return read_npz_splits(files, normalize, tuple(_shared_files(files)))


def _shared_files(files: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    # A missing file is reported when it is read.
    named = {name: filter(os.path.isfile, paths) for name, paths in files.items()}
    resolved = {name: {path.resolve(): path for path in paths} for name, paths in named.items()}
    for (name, one), (other, another) in combinations(resolved.items(), 2):
        for path in one.keys() & another.keys():
            yield shared_note(name, other, f"the file {str(one[path])!r}")


def read_npz_splits(
    files: dict[str, list[Path]], normalize: str | None, notes: Sequence[str] = ()
) -> Splits:
    """Read the files of each split ("train", and "val" and "test" where there are any)."""
    arrays = {name: _read_files(paths) for name, paths in files.items()}
    image_shape = arrays["train"][0].shape[1:]
    for name, (images, _) in arrays.items():
        if images.shape[1:] != image_shape:
            raise DataError(
                f"{name} images are {_by(images.shape[1:])} but train images are "
                f"{_by(image_shape)} (height x width x channels): they must agree."
            )
    normalization = parse_normalization(normalize, image_shape[-1])
    splits = {name: ArraySplit(*pair, normalization) for name, pair in arrays.items()}
    return Splits.of(splits, notes)


def absolute_files(argument: str) -> str:
    """Return the argument of `load_npz` with absolute paths."""
    files = _parse_files(argument)
    lists = {name: ",".join(map(absolute, map(str, paths))) for name, paths in files.items()}
    return ";".join([lists.pop("train"), *(f"{name}={value}" for name, value in lists.items())])


def _parse_files(argument: str) -> dict[str, list[Path]]:
    train, *others = argument.split(";")
    lists = {"train": train}
    for other in others:
        name, equals, value = other.partition("=")
        if not equals or name not in ("val", "test"):
            raise UsageError(
                f"unknown split {name!r} in npz:{argument}: {did_you_mean(name, ['val', 'test'])}"
            )
        if name in lists:
            raise UsageError(f"{name}= is given twice in npz:{argument}: part files by commas.")
        lists[name] = value
    if not all(file for value in lists.values() for file in value.split(",")):
        raise UsageError(f"a file name is missing in npz:{argument}: write {USAGE}.")
    return {
        name: [Path(file).expanduser() for file in value.split(",")]
        for name, value in lists.items()
    }


def _read_files(paths: Sequence[Path]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the concatenated images and labels of several files."""
    labels = [_read_labels(path) for path in paths]
    images = _read_images(paths[0], len(labels[0]))
    if len(paths) > 1:
        # Filled file by file, so that the images are never in memory twice.
        total = sum(map(len, labels))
        first, images = images, np.empty((total, *images.shape[1:]), dtype=np.uint8)
        images[: len(first)] = first
        start = len(first)
        del first
        for path, part in zip(paths[1:], labels[1:], strict=True):
            images[start : start + len(part)] = _read_images(path, len(part), images.shape[1:])
            start += len(part)
    return images, np.concatenate(labels)


def _read_labels(path: Path) -> npt.NDArray[np.int64]:
    labels = _read_array(path, "y")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: y must be whole-number labels of shape (n,), "
            f"but got {labels.dtype} of shape {labels.shape}."
        )
    return labels.astype(np.int64)


def _read_images(
    path: Path, labels: int, image_shape: tuple[int, ...] | None = None
) -> npt.NDArray[np.uint8]:
    images = _read_array(path, "x")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{path}: x must be uint8 images of shape (n, height, width, channels), "
            f"but got {images.dtype} of shape {images.shape}."
        )
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise DataError(
            f"{path}: x of shape {images.shape} has its channels first; "
            f"store x.transpose(0, 2, 3, 1), that is (n, height, width, channels)."
        )
    if len(images) != labels:
        raise DataError(
            f"{path}: x has {counted(len(images), 'image')} but y has {counted(labels, 'label')}."
        )
    if image_shape is not None and images.shape[1:] != image_shape:
        raise DataError(
            f"{path}: its images are {_by(images.shape[1:])} but those of the file before are "
            f"{_by(image_shape)} (height x width x channels): they must agree."
        )
    return images


def _read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """Return an array of an npz file.

    Raises:
        UsageError: there is no such file.
        DataError: it is damaged, lacks the array, or holds objects, which could run code.
    """
    if not os.path.isfile(path):  # False if it cannot be a path
        raise UsageError(f"no such file: {str(path)!r}.")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path}: not an npz file, or truncated; write it with numpy.savez(file, x=…, y=…)."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            if missing := {"x", "y"} - members.keys():
                raise DataError(
                    f"{path}: array {min(missing)!r} is missing; it holds "
                    f"{', '.join(members) or 'nothing'}, but x and y are needed."
                )
            with archive.open(members[name]) as file:
                _check_length(file, members[name].file_size)
            with archive.open(members[name]) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy raise nearly anything
        raise DataError(f"{path}: {name} cannot be read: {file_fault(error)}") from error


def _check_length(file: IO[bytes], length: int) -> None:
    """Refuse an array whose size is not that of the file in the archive, before allocating it.

    Raises:
        ValueError: the size differs, or the file is not an array.
    """
    major, _ = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[min(major, 2)](file)
    if math.prod(shape) * dtype.itemsize != length - file.tell() and not dtype.hasobject:
        raise ValueError(f"{length} bytes are not an array of {dtype} of shape {shape}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
