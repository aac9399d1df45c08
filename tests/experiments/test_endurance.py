"""The script that kills searches: processes that end early, and the stages that they were in."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def kill(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the script as Python does when it is started."""
    monkeypatch.syspath_prepend(str(root / "experiments/endurance"))
    yield importlib.import_module("kill")
    sys.modules.pop("kill", None)


def test_a_process_ends_by_its_processor_time(kill: Any, tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "begun").touch()
        while True:
            time.process_time()

    assert kill.in_process(work, 0.05) is False
    assert kill.in_process(lambda: (tmp_path / "ended").touch(), 60.0) is True
    assert (tmp_path / "begun").exists() and (tmp_path / "ended").exists()


def test_stages_are_known_by_when_they_were_first_seen(kill: Any, tmp_path: Path) -> None:
    timeline = kill.Timeline(tmp_path / "run.stages")
    for stage in ("structure", "structure", "search", "finalists", "search"):
        timeline.step(stage, 1, 2)
    found = kill.stages(tmp_path / "run.stages")
    assert [stage for stage, _ in found] == ["structure", "search", "finalists"]
    assert sorted(at for _, at in found) == [at for _, at in found]
