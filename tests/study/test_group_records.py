"""groups.json is read as strictly as it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import groups

from autoprune.errors import RunError
from autoprune.study.group_records import Curve
from autoprune.study.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    run.save_groups(groups())
    return run


def test_what_is_written_is_read_again(run: RunDirectory) -> None:
    assert run.load_groups() == groups()
    assert [path.name for path in run.path.iterdir()] == ["groups.json"]


def test_older_runs_have_none(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).load_groups() is None


def test_later_versions_may_add_keys(run: RunDirectory) -> None:
    data = json.loads(run.groups_path.read_text())
    data["groups"][0]["colour"] = data["new"] = "blue"
    run.groups_path.write_text(json.dumps(data))
    assert run.load_groups() == groups()


def _group(data: Any, **changes: Any) -> None:
    data["groups"][0].update(changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("frozen"),
        lambda data: _group(data, size=0),
        lambda data: _group(data, size=True),
        lambda data: _group(data, width="6"),
        lambda data: _group(data, share={"flops": 1.5}),
        lambda data: _group(data, share={"flops": float("nan")}),
        lambda data: _group(data, order=[-1]),
        lambda data: _group(data, name="x" * 1001),
        lambda data: _group(data, curve={"widths": [1, 2], "losses": [0.1]}),
        lambda data: _group(data, curve={"widths": [2, 1], "losses": [0.1, 0.2]}),
        lambda data: _group(data, curve={"widths": [1], "losses": [float("inf")]}),
        lambda data: _group(data, steps=[{"width": 1, "costs": {"flops": -1.0}}]),
    ],
)
def test_an_altered_file_is_refused(run: RunDirectory, damage: Callable[[Any], object]) -> None:
    data = json.loads(run.groups_path.read_text())
    damage(data)
    run.groups_path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"cannot read .*groups\.json"):
        run.load_groups()


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"groups": [], "groups": []}'])
def test_garbage_is_refused(run: RunDirectory, content: str) -> None:
    run.groups_path.write_text(content)
    with pytest.raises(RunError, match=r"cannot read .*groups\.json"):
        run.load_groups()


def test_a_curve_is_read_at_its_widths() -> None:
    assert Curve([1, 3], errors=[0.2, 0.1], losses=[5.0, 4.0]).at(3) == 4.0
    assert Curve([1, 3], errors=[0.2, 0.1]).at(1) == 0.2
    assert Curve([1, 3], errors=[0.2, 0.1]).at(2) is None
    assert Curve([1, 3]).at(1) is None
