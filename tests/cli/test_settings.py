"""Options of a search, gathered from where they may stand."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autoprune.cli.settings import gather


def test_a_storage_in_a_file_is_left_out_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "autoprune")
    file = tmp_path / "own.toml"
    file.write_text('budget = "flops=0.5"\nstorage = "sqlite:///a.db"\n')
    assert "storage" not in gather({"config": str(file)}).search
    assert [r.getMessage() for r in caplog.records if "names a storage" in r.getMessage()]
    caplog.clear()
    url = f"sqlite:///{tmp_path}/b.db"
    assert gather({"config": str(file), "storage": url}).search["storage"] == url
    assert not caplog.records
