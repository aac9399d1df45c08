"""A run directory is read strictly, and never written to."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_files import RESULT, TRIALS, groups, write_run

from autoprune.errors import RunError, UsageError
from autoprune.reporting.run_records import RunRecord, read_runs


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_all_of_a_run_is_read_and_nothing_is_written(run_path: Path) -> None:
    before = digests(run_path)
    (run,) = read_runs([run_path])
    assert [trial.candidate.widths for trial in run.trials] == [one[0] for one in TRIALS]
    assert (run.label, run.network, run.asked) == ("a", "net.py:net", "flops=0.7")
    assert run.stages == ("dense", "pruned", "recovered")
    assert run.lost == pytest.approx(0.02)
    assert run.share("flops") == 0.7 and run.share("none") is None
    assert run.groups == groups()
    assert digests(run_path) == before


def test_the_files_of_stages(run: RunRecord) -> None:
    assert run.weights_file("pruned") == run.run.unrecovered_path
    assert run.weights_file("recovered") == run.run.weights_path
    assert run.weights_file("dense") is None and run.weights_file("finetuned") is None


def test_a_fine_tuned_network_is_what_is_handed_over(tmp_path: Path) -> None:
    score = {**RESULT["score"], "finetuned": 0.96}
    (run,) = read_runs([write_run(tmp_path / "a", {"score": score})])
    assert run.handed_over == "finetuned" and run.lost == pytest.approx(-0.01)


def test_a_run_of_an_older_version_has_no_groups(run_path: Path) -> None:
    (run_path / "groups.json").unlink()
    (run,) = read_runs([run_path])
    assert run.groups is None


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name / "a") for name in ("x", "y")]
    assert [run.label for run in read_runs(paths)] == [str(path) for path in paths]


def test_a_run_that_is_given_twice_is_refused(run_path: Path) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        read_runs([run_path, run_path / ".." / "a"])


def test_no_run_and_an_unfinished_one(tmp_path: Path, run_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        read_runs([tmp_path / "none"])
    (run_path / "result.json").unlink()
    with pytest.raises(RunError, match="is not finished: finish it with: autoprune search"):
        read_runs([run_path])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("widths", {"stem": [6, 8], "body": [2]}),
        ("widths", {"stem": [-1, 8], "body": [2, 4]}),
        ("costs", {"dense": {}, "pruned": {"flops": -1}}),
        ("costs", {"dense": {"flops": "many"}, "pruned": {}}),
        ("score", {"metric": "bleu", "dense": 1.0, "pruned": 1.0, "split": "test"}),
        ("search", {"trials": 1.5, "evaluations": 7}),
        ("strategy", "x" * 1000),
        ("export", [{"format": "onnx", "file": "a.onnx", "bytes": -1}]),
    ],
)
def test_an_altered_result_is_refused(run_path: Path, key: str, value: Any) -> None:
    path = run_path / "result.json"
    path.write_text(json.dumps({**RESULT, key: value}))
    with pytest.raises(RunError, match=r"result\.json' was altered, or is of an older version"):
        read_runs([run_path])


def test_parts_of_different_runs_are_refused(run_path: Path) -> None:
    path = run_path / "result.json"
    path.write_text(json.dumps({**RESULT, "widths": {"stem": [6, 8], "other": [2, 4]}}))
    with pytest.raises(RunError, match=r"groups\.json' is of another run"):
        read_runs([run_path])
    path.write_text(json.dumps({**RESULT, "widths": {"stem": [6, 8]}}))
    with pytest.raises(RunError, match=r"trial 1 of the study .* is of another run"):
        read_runs([run_path])


@pytest.mark.parametrize("damage", ["missing", "garbage", "folder"])
def test_a_damaged_study_is_refused(run_path: Path, damage: str) -> None:
    study = run_path / "study.db"
    study.unlink()
    if damage == "garbage":
        study.write_bytes(b"no database" * 1000)
    if damage == "folder":
        study.mkdir()
    with pytest.raises(RunError, match=r"cannot (open|read) study"):
        read_runs([run_path])
    assert study.exists() == (damage != "missing")


def test_a_run_in_a_folder_of_any_name(tmp_path: Path, run_path: Path) -> None:
    strange = tmp_path / "a?b#c%20 d"
    shutil.copytree(run_path, strange)
    (run,) = read_runs([strange])
    assert len(run.trials) == len(TRIALS)
