"""The table about branches that go: its searches, its rows, and what it finds done already."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest


@pytest.fixture
def table(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the script; its command lines are noted, and leave what a search leaves."""
    path = root / "experiments/depth/table.py"
    spec = importlib.util.spec_from_file_location("depth_table", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "depth_table", module)
    spec.loader.exec_module(module)
    module.called = []

    def autoprune(*arguments: str) -> CompletedProcess[str]:
        module.called.append(arguments)
        output = Path(arguments[arguments.index("--output") + 1])
        if arguments[0] == "profile":
            output.write_text("{}")
        elif "latency=0.5" in arguments and "channels" in arguments:
            return CompletedProcess(arguments, 2, stderr="latency=0.5 cannot be reached\n")
        else:
            output.mkdir()
            (output / "result.json").write_text(json.dumps(RESULT))
            (output / "policy.json").write_text(json.dumps({"bypasses": [{"module": "a"}]}))
        return CompletedProcess(arguments, 0, stderr="")

    module.autoprune = autoprune
    return module


RESULT = {
    "score": {"dense": 0.93, "pruned": 0.9, "kl": 0.2, "recovered": 0.91, "recovered_kl": None},
    "costs": {
        "dense": {"flops": 100, "latency_ms": 8.0},
        "pruned": {"flops": 45, "latency_ms": 4.0},
        "latency": {"predicted_ms": 4.1, "predicted_dense_ms": 8.2, "measured_ms": 4.0},
    },
}


def test_every_search_is_run_once_and_is_a_row(table: Any, tmp_path: Path, capsys: Any) -> None:
    options = ["shared", str(tmp_path / "runs"), "--networks", "resnet20", "--trials", "2"]
    args = table.parsed([*options, "--backends", "torch"])
    args.runs.mkdir()
    rows = [table.row(case, table.search(args, case)) for case in table.cases(args)]
    start = "| resnet20 | {} | torch | {} | "
    figures = "0.9100 | 0.200 | 45.0% | 4.10 of 8.20 (50.0%) | 4.00 of 8.00 (50.0%) | 1 |"
    assert rows == [
        start.format("flops=0.5", "channels") + figures,
        start.format("flops=0.5", "and depth") + figures,
        start.format("latency=0.5", "channels")
        + "latency=0.5 cannot be reached"
        + 5 * " | –"
        + " |",
        start.format("latency=0.5", "and depth") + figures,
    ]
    assert [one[0] for one in table.called] == ["profile", *4 * ["search"]]
    assert all(one[-2:] == ("--trials", "2") for one in table.called[1:])
    again = [table.row(case, table.search(args, case)) for case in table.cases(args)]
    assert again == rows and len(table.called) == 5


def test_a_search_that_was_stopped_goes_on(table: Any, tmp_path: Path) -> None:
    args = table.parsed(["shared", str(tmp_path), "--networks", "resnet56"])
    case = table.cases(args)[0]
    run = tmp_path / case.name
    run.mkdir()
    (run / "config.toml").write_text("")
    with pytest.raises(FileExistsError):  # the search that is faked here makes its run
        table.search(args, case)
    assert table.called == [("search", "--resume", "--output", str(run))]


def test_resnet18_needs_data(table: Any) -> None:
    with pytest.raises(SystemExit):
        table.parsed(["shared", "runs", "--networks", "resnet18"])
