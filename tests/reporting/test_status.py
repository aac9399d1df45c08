"""How far a search is, from its directory alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_files import write_run

from autoprune.cli.app import main
from autoprune.core.progress import Progress, SearchState
from autoprune.errors import RunError
from autoprune.reporting.dashboard import memory_copy
from autoprune.reporting.status import in_words, read_status
from autoprune.study.run_directory import RunDirectory
from autoprune.study.run_log import logged


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A search that is not finished."""
    run = RunDirectory(write_run(tmp_path / "run"))
    run.result_path.unlink()
    return run


def test_a_search_that_goes_on(run: RunDirectory) -> None:
    with run.held(), logged(run, Progress()) as progress:
        for done in (4, 5):
            progress.searched(SearchState(done, 20, -0.2, "kl 0.2"))
        found = read_status(run)
    assert found.state == "running"
    assert found.process is not None and found.process.startswith(f"process {os.getpid()} of ")
    assert (found.trials, found.failed, found.budget) == (5, 0, "flops=0.7")
    assert (found.stage, found.done, found.total) == ("search", 5, 20)
    assert found.evaluations_per_minute is not None and found.evaluations_per_minute > 0
    assert found.seconds_left is not None and found.quiet_seconds is not None
    assert found.best is not None
    # The probe is better, but cannot win.
    assert (found.best.kl, found.best.top1, found.best.costs["flops"]) == (0.2, 0.9, 0.7)
    words = in_words(found)
    assert words[0].startswith("running by process ")
    assert words[2] == (
        "best so far: reward -0.2, KL 0.2, top-1 90.00 %; of the dense network: flops 70.00 %, "
        "params 70.00 %, memory 70.00 %"
    )
    assert words[3].startswith("stage search: 5 of 20; ")


def test_one_that_was_killed(run: RunDirectory) -> None:
    with logged(run, Progress()) as progress:
        progress.step("recovery", 40, 100)
    found = read_status(run)
    assert (found.state, found.process, found.stage) == ("interrupted", None, "recovery")
    assert found.evaluations_per_minute is found.seconds_left is None


def test_one_that_is_finished(tmp_path: Path) -> None:
    found = read_status(RunDirectory(write_run(tmp_path / "run")))
    assert (found.state, found.stage, found.trials) == ("finished", None, 5)
    assert in_words(found)[0] == "finished" and len(in_words(found)) == 3


def test_one_without_a_trial(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create({"budget": "flops=0.5"})
    found = read_status(run)
    assert (found.trials, found.best, found.state) == (0, None, "interrupted")


def test_one_whose_trials_are_elsewhere(tmp_path: Path) -> None:
    run, url = RunDirectory(tmp_path / "run"), "postgresql://me@server/studies"
    run.create({"budget": "flops=0.5", "storage": url})
    found = read_status(run)
    assert (found.trials, found.failed, found.best, found.storage) == (None, None, None, url)
    words = f"trials are in the storage {url} until the search is finished; budget flops=0.5"
    assert in_words(found)[1] == words
    with pytest.raises(RunError, match=f"is finished: its trials are in the storage '{url}'"):
        memory_copy(run)


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        read_status(RunDirectory(tmp_path))


def test_the_command(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()}
    assert main(["status", str(run.path)]) == 0
    assert "interrupted\n5 trials; budget flops=0.7\nbest so far: " in capsys.readouterr().out
    assert main(["status", str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["best"]["kl"]) == ("interrupted", 0.2)
    assert {path.name: path.stat().st_mtime_ns for path in run.path.iterdir()} == before
