"""Files of torch.save from anybody: they take no more memory than they hold, and run nothing."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from autoprune.core.pytorch_files import load_pytorch
from autoprune.errors import AutopruneError
from autoprune.models.demo import load_demo
from autoprune.models.weights import load_weights
from autoprune.training.checkpoints import load_checkpoint

MANY = 10**9


def archive(path: Path, pickled: bytes | None = None, kind: int = zipfile.ZIP_STORED) -> Path:
    """Write what torch.save does, with another pickle or compressed."""
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", kind) as target:
        for name in source.namelist():
            is_pickle = name.endswith(".pkl") and pickled is not None
            target.writestr(name, pickled if is_pickle and pickled else source.read(name))
    return path


def test_bytes_that_are_not_in_the_file_are_not_made(tmp_path: Path) -> None:
    pickled = b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", MANY) + b"\x85R."
    path = archive(tmp_path / "w.pt", pickled)
    tracemalloc.start()
    with pytest.raises(ValueError, match="makes bytes that are not in it"):
        load_pytorch(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MANY / 10


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compressed"):
        load_pytorch(archive(tmp_path / "w.pt", kind=zipfile.ZIP_DEFLATED))


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(MANY, MANY)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="more numbers than it does"):
        load_pytorch(tmp_path / "w.pt")
    for read in (lambda p: load_weights(load_demo(), str(p)), load_checkpoint):
        with pytest.raises(AutopruneError, match="more numbers than it does"):
            read(tmp_path / "w.pt")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_files_that_were_cut_off_are_named(share: float, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(9000)}, path)
    os.truncate(path, round(share * path.stat().st_size))
    for read in (lambda p: load_weights(load_demo(), str(p)), load_checkpoint):
        with pytest.raises(AutopruneError, match=r"w\.pt"):
            read(path)


@pytest.mark.parametrize("is_new", [True, False])
def test_what_torch_save_writes_is_read(is_new: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(3)}, path, _use_new_zipfile_serialization=is_new)
    assert load_pytorch(path)["a"].tolist() == [0, 1, 2]
