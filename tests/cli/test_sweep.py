"""search --from RUN --sweep, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomllib
from safetensors.numpy import load_file

import autoprune
from autoprune.errors import UsageError
from autoprune.models.demo import load_demo

SWEEP = ("--sweep", "flops=0.4:0.6:0.1", "--recover", "off", "--no-report")


@pytest.fixture
def sweep(cli, demo_run):
    """Sweep over three budgets with the policies of a finished run, into the directory `all`."""

    def run(*arguments: str) -> Any:
        return cli("search", "--from", str(demo_run[0]), "--output", "all", *arguments)

    return run


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("all/sweep.json").read_text())["runs"]
    return found


def weights(name: str) -> dict[str, bytes]:
    return {key: one.tobytes() for key, one in load_file(f"all/{name}/pruned.safetensors").items()}


def test_every_budget_has_an_ordinary_run(sweep, cli) -> None:
    done = sweep(*SWEEP, "--budget", "params=0.7")
    assert done.status == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()[1:4]] == [
        "flops-0.4", "flops-0.5", "flops-0.6",
    ]  # fmt: skip
    assert [(one["run"], one["finished"], one["error"]) for one in rows()] == [
        ("flops-0.4", True, None), ("flops-0.5", True, None), ("flops-0.6", True, None),
    ]  # fmt: skip
    for one, bound in zip(rows(), (0.4, 0.5, 0.6), strict=True):
        config = tomllib.loads(Path("all", one["run"], "config.toml").read_text())
        assert config["budget"] == one["budget"] == f"flops={bound},params=0.7"
        assert bound - 0.05 < one["shares"]["flops"] <= bound and one["shares"]["params"] <= 0.7
        assert cli("evaluate", f"all/{one['run']}").status == 0
    assert "Accuracy against cost" in Path("all/report.html").read_text()
    assert done.err.count("statistics:") <= done.err.count("finalists: 1 of 1")


def test_a_sweep_equals_single_searches(sweep, cli, demo_run) -> None:
    assert sweep(*SWEEP, "--quiet").out == "all\n"
    again = ("search", "--from", str(demo_run[0]), "--recover", "off", "--no-report")
    assert cli(*again, "--budget", "flops=0.5", "--output", "all/one").status == 0
    assert weights("one") == weights("flops-0.5")


def settings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("all/sweep.json").read_text())["settings"]
    return found


def test_a_sweep_goes_on_where_it_was(sweep, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep(*SWEEP).status == 0
    begun = settings()
    assert begun["repair_samples"] > 1 and begun["judge"]
    # Less memory is free when it goes on.
    monkeypatch.setattr("autoprune.engine.builder.memory_share", lambda device: 1)
    whole = {name: weights(name) for name in ("flops-0.5", "flops-0.6")}
    shutil.rmtree("all/flops-0.5")  # as if it had not begun
    Path("all/flops-0.6/result.json").unlink()  # as if it had been killed
    before = Path("all/flops-0.4/result.json").stat().st_mtime_ns
    resumed = cli("search", "--resume", "--output", "all", "--quiet")
    assert (resumed.status, resumed.out) == (0, "all\n"), resumed.err
    assert {name: weights(name) for name in whole} == whole
    assert Path("all/flops-0.4/result.json").stat().st_mtime_ns == before
    assert all(one["finished"] for one in rows()) and settings() == begun
    assert cli("search", "--resume", "--output", "all").status == 0 and settings() == begun
    refused = cli("search", "--resume", "--output", "all", "--sweep", "flops=0.1:0.2:0.1")
    assert refused.status == 2 and "leave out --sweep" in refused.err


def test_fine_tuning_that_was_killed_goes_on(sweep, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.engine.repeat.finetune_run", killed)
        assert sweep(*SWEEP[:1], "flops=0.5:0.5:0.1", *SWEEP[2:], "--finetune-epochs", "0.2").status
    assert Path("all/flops-0.5/result.json").exists() and not rows()[0]["finished"]
    resumed = cli("search", "--resume", "--output", "all", "--quiet")
    assert resumed.status == 0 and rows()[0]["finished"], resumed.err
    result = json.loads(Path("all/flops-0.5/result.json").read_text())
    assert result["finetune"]["steps"] > 0


def test_a_sweep_on_a_storage_goes_on_with_it(sweep, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    url = f"sqlite:///{Path.cwd()}/a b.db"
    with monkeypatch.context() as patch:
        patch.setattr("autoprune.engine.pipeline.recover_winner", killed)
        stopped = sweep(*SWEEP[:1], "flops=0.4:0.5:0.1", *SWEEP[2:], "--storage", url)
    assert f"--resume --output all --storage '{url}'" in stopped.err
    assert f"sweep(…, output='all', storage='{url}', resume=True)" in stopped.err
    refused = cli("search", "--resume", "--output", "all")
    assert refused.status == 2 and "without the storage that it was begun with" in refused.err
    resumed = cli("search", "--resume", "--output", "all", "--storage", url)
    assert resumed.status == 0 and all(one["finished"] for one in rows()), resumed.err


def test_a_budget_out_of_reach_is_left_out(sweep) -> None:
    done = sweep("--sweep", "flops=0.001:0.501:0.5", "--recover", "off", "--no-report")
    assert done.status == 0, done.err
    assert "flops=0.001 was left out" in done.out and "out of reach" in rows()[0]["error"]
    assert [one["finished"] for one in rows()] == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep", "flops=0.3:0.9"), "is not COST=FROM:TO:STEP"),
        ((*SWEEP, "--budget", "flops=0.3"), "--budget bounds flops by"),
        ((*SWEEP, "--max-drop", "1"), "--sweep and --max-drop exclude each other"),
        (("--sweep", "flops=0.001:0.002:0.001"), "none of the budgets can be met"),
    ],
)
def test_mistakes_are_told_in_one_line(sweep, words: tuple[str, ...], message: str) -> None:
    done = sweep(*words)
    assert done.status == 2 and message in done.err
    assert not Path("all/sweep.json").exists() and "Traceback" not in done.err


def test_a_sweep_needs_a_run_and_a_free_place(sweep, cli) -> None:
    assert "say of which run, with --from" in cli("search", *SWEEP).err
    assert sweep(*SWEEP).status == 0
    assert "holds another sweep; continue that with --resume" in sweep(*SWEEP).err
    Path("all/sweep.json").write_text('{"sweep": 3}')
    damaged = cli("search", "--resume", "--output", "all")
    assert damaged.status == 2 and "sweep.json" in damaged.err


def test_a_sweep_from_python(demo_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.data import load_splits

    given: dict[str, Any] = {
        "data": load_splits("digits"), "from_run": demo_run[0], "recover": "off", "report": False,
        "calibration_samples": 96, "search_samples": 96, "selection_samples": 96,
        "output": tmp_path / "all",
    }  # fmt: skip
    done = autoprune.sweep(load_demo(), "flops=0.4:0.6:0.2", **given)
    assert [run.name for run in done.runs] == ["flops-0.4", "flops-0.6"]
    assert autoprune.load_pruned(load_demo(), done.runs[0]) is not None
    assert done.result["settings"]["at_once"] == 1
    again = autoprune.sweep(load_demo(), "flops=0.4:0.6:0.2", resume=True, workers=2, **given)
    assert again.result["runs"] == done.result["runs"]
    with pytest.raises(UsageError, match=r"cannot resume .* with seed=3: it was begun with 0"):
        autoprune.sweep(load_demo(), "flops=0.4:0.6:0.2", resume=True, **given, seed=3)
