from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_files import write_run

from autoprune.reporting.run_records import RunRecord, read_runs


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is written once; making a study takes longest."""
    return write_run(tmp_path_factory.mktemp("made") / "a")


@pytest.fixture
def run_path(made_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_run, tmp_path / "a"))


@pytest.fixture
def run(run_path: Path) -> RunRecord:
    return read_runs([run_path])[0]
