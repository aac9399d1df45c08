"""CIFAR-10 from its binary distribution or from npz files; never from its pickles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoprune.data.normalization import parse_normalization
from autoprune.data.npz import read_npz_splits
from autoprune.data.splits import ArraySplit, Splits
from autoprune.errors import DataError, UsageError, file_fault

CLASSES = 10
RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
SOURCE = "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"


def load_cifar10(argument: str, normalize: str | None) -> Splits:
    """Read CIFAR-10 from a folder.

    Either `data_batch_*.bin` and `test_batch.bin` (there or in `cifar-10-batches-bin/`), whose test
    images become val (first half: 5,000) and test (second half), or `cifar10_train_*.npz`, with
    `cifar10_val.npz` and `cifar10_test.npz` where there are any.

    Raises:
        UsageError: the folder is missing, or holds no CIFAR-10 that can be read safely.
        DataError: a file is damaged.
    """
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no such folder: {argument!r}; write cifar10:DIR.")
    for place in (folder, folder / "cifar-10-batches-bin"):
        if (place / "test_batch.bin").exists() or any(place.glob("data_batch_*.bin")):
            return _load_binary(place, normalize)
    train = sorted(folder.glob("cifar10_train_*.npz"))
    if train:
        others = {name: folder / f"cifar10_{name}.npz" for name in ("val", "test")}
        held_out = {name: [path] for name, path in others.items() if path.exists()}
        return read_npz_splits({"train": train, **held_out}, normalize)
    if _holds_pickles(folder):
        raise UsageError(
            f"{argument!r} holds CIFAR-10's Python version, which is refused because reading a "
            f"pickle can run code: download {SOURCE} instead."
        )
    raise UsageError(
        f"no CIFAR-10 in {argument!r}: it needs data_batch_*.bin and test_batch.bin ({SOURCE}), "
        f"or cifar10_train_*.npz."
    )


def _holds_pickles(folder: Path) -> bool:
    names = ("data_batch_1", "test_batch", "cifar-10-batches-py", "cifar-10-python.tar.gz")
    return any((folder / name).exists() for name in names)


def _load_binary(folder: Path, normalize: str | None) -> Splits:
    batches = sorted(folder.glob("data_batch_*.bin"))
    if not batches or not (folder / "test_batch.bin").exists():
        missing = "test_batch.bin" if batches else "data_batch_*.bin"
        raise UsageError(f"{missing} is missing in {str(folder)!r}: unpack {SOURCE} again.")
    records = np.concatenate([_read_records(path) for path in batches])
    held_out = _read_records(folder / "test_batch.bin")
    half = len(held_out) // 2
    parts = {"train": records, "val": held_out[:half], "test": held_out[half:]}
    normalization = parse_normalization(normalize, channels=3)
    splits = {
        name: ArraySplit(_images(part), part[:, 0].astype(np.int64), normalization)
        for name, part in parts.items()
    }
    return Splits.of(splits)


def _read_records(path: Path) -> npt.NDArray[np.uint8]:
    """Return a file's records, shape (n, RECORD_BYTES)."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {file_fault(error)}") from error
    if len(data) == 0 or len(data) % RECORD_BYTES:
        raise DataError(
            f"{path}: {len(data)} bytes are not a whole number of {RECORD_BYTES}-byte records; "
            f"the file is damaged: unpack {SOURCE} again."
        )
    records = data.reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= CLASSES:
        raise DataError(f"{path}: label {records[:, 0].max()} is not in 0 to 9; is it CIFAR-10?")
    return records


def _images(records: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the images of records, shape (n, 32, 32, 3)."""
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
