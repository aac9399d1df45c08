"""Files of `torch.save` that may come from anybody: read without running code, within bounds."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.core.untrusted import check_regular

# The one function that `weights_only=True` calls which makes as many bytes as it is told.
_ALLOCATES = b"\nbytearray\n"
# Of a file in PyTorch's older format, which is no archive; what is pickled in it comes first.
_LONGEST_PICKLE = 64 * 2**20


class OversizedFile(ValueError):
    """A file that asks for more memory than it holds."""


def load_pytorch(path: Path) -> Any:
    """Return what a file of `torch.save` holds, on the CPU; it takes no more memory than the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file.
        OversizedFile: it claims to hold more than it does.
        Exception: whatever PyTorch raises at a damaged file.
    """
    check_regular(path)
    try:
        found = _loaded(path)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a seek in an archive that was cut off
            raise ValueError("it is damaged, or not whole") from error
        raise
    largest = path.stat().st_size
    if any(_size(tensor) > largest for tensor in _tensors(found)):
        raise OversizedFile("it claims to hold more numbers than it does")
    return found


def _loaded(path: Path) -> Any:
    if _ALLOCATES in _pickled(path):
        raise OversizedFile("it makes bytes that are not in it")
    return torch.load(path, map_location="cpu", weights_only=True)


def _pickled(path: Path) -> bytes:
    """Return the part of a file that says what its tensors are.

    Raises:
        OversizedFile: it is an archive whose contents are larger than the file.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(_LONGEST_PICKLE)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(one.file_size for one in members) > path.stat().st_size:
            raise OversizedFile("it is compressed, or claims to hold more than it does")
        return b"".join(archive.read(one) for one in members if one.filename.endswith(".pkl"))


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor that is written out; 0 for one that is sparse or has no data."""
    is_plain = tensor.layout == torch.strided and not tensor.is_meta
    return tensor.numel() * tensor.element_size() if is_plain else 0


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in containers, which may hold each other or themselves."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple, set)):
            waiting.extend(one)
