from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from autoprune.errors import RunError
from autoprune.training.checkpoints import load_checkpoint, save_checkpoint


class Harmful:
    def __reduce__(self) -> object:
        return os.mkdir, (str(Path(os.environ["HARM"])),)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "a.pt"
    save_checkpoint(path, {"step": 3, "network": {"w": torch.arange(3.0)}})
    found = load_checkpoint(path)
    assert found["step"] == 3 and found["network"]["w"].tolist() == [0, 1, 2]
    assert [one.name for one in path.parent.iterdir()] == ["a.pt"]


def test_no_code_of_a_checkpoint_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    torch.save({"format": "autoprune training state", "x": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(RunError, match="cannot read checkpoint") as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "harm").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(RunError, match="cannot read checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(RunError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
