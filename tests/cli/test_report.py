"""report, compare and explain, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_files import write_run

from autoprune.errors import UsageError
from autoprune.reporting.report import OUTPUT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "a")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> str:
    return Path(shutil.copytree(made, tmp_path / "a")).name


@pytest.fixture
def other(made: Path, tmp_path: Path) -> str:
    return Path(shutil.copytree(made, tmp_path / "b")).name


def test_a_report_is_written_beside_the_run(cli, run: str) -> None:
    done = cli("report", run)
    assert (done.status, done.err) == (0, "")
    assert done.out == "a/report.html: open it in a browser\n"
    assert "Asked for flops=0.7" in Path("a/report.html").read_text()
    assert cli("report", run).status == 0  # it is the run's own


def test_a_report_of_several_runs(cli, run: str, other: str) -> None:
    assert cli("report", run, other).status == 0
    assert "2 searches" in Path(OUTPUT).read_text()
    done = cli("report", run, other)
    assert done.status == 2 and "is there already: remove it or choose another" in done.err
    assert cli("report", run, other, "--output", "new/page.html").status == 0
    assert Path("new/page.html").exists()


def test_compare(cli, run: str, other: str) -> None:
    done = cli("compare", run, other)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["run", "asked", "dense"]
    assert lines[1].split()[:3] == ["a", "flops=0.7", "95.00"]
    found = json.loads(cli("compare", run, other, "--json").out)
    assert [one["run"] for one in found["runs"]] == ["a", "b"] and found["same_network"]


def test_explain(cli, run: str) -> None:
    done = cli("explain", run)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[1].split()[:4] == ["stem", "6", "/", "8"]
    assert [one["name"] for one in json.loads(cli("explain", run, "--json").out)] == [
        "stem",
        "body",
    ]
    done = cli("explain", run, "body.twin")
    assert done.out.startswith("body keeps 2 of 4 units (50 %)") and "(the winner)" in done.out
    assert json.loads(cli("explain", run, "body", "--json").out)["kept"] == 2
    assert cli("explain", run, "head").out == (
        "head keeps all of its 10 units: the network's output.\n"
    )
    assert json.loads(cli("explain", run, "head", "--json").out)["frozen"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("report", "Missing argument 'RUN…'"),
        ("compare", "Missing argument 'RUN…'"),
        ("explain", "Missing argument 'RUN'"),
        ("report none", "'none' holds no run"),
        ("compare a none", "'none' holds no run"),
        ("explain none", "'none' holds no run"),
        ("report a a", "'a' is given twice"),
        ("report a --output a", "--output 'a' is a directory: name a file"),
        ("report a --output small.toml", "'small.toml' is there already"),
        ("report a --output small.toml/page.html", "cannot be made"),
        ("explain a sten", "has no layer 'sten'; did you mean 'stem'?"),
        ("explian a", "did you mean 'explain'?"),
    ],
)
def test_mistakes_get_one_line(cli, run: str, command: str, message: str) -> None:
    before = sorted(map(str, Path().rglob("*")))
    done = cli(*command.split())
    assert done.status == 2 and message in done.err
    assert len(done.err.splitlines()) == 1 and done.out == ""
    assert sorted(map(str, Path().rglob("*"))) == before


@pytest.mark.parametrize("command", ["report", "compare", "explain"])
def test_an_unfinished_run_says_how_to_go_on(cli, run: str, command: str) -> None:
    Path(run, "result.json").unlink()
    done = cli(command, run)
    assert done.status == 2
    assert "is not finished: finish it with: autoprune search --resume --output a" in done.err


@pytest.mark.parametrize("command", ["report", "compare", "explain"])
@pytest.mark.parametrize("file", ["result.json", "study.db", "groups.json", "config.toml"])
def test_a_damaged_run_gets_one_line(cli, run: str, command: str, file: str) -> None:
    Path(run, file).write_text("{damaged")
    done = cli(command, run)
    assert done.status == 2 and file in done.err and len(done.err.splitlines()) == 1
    assert not Path(run, "report.html").exists()


def test_a_search_writes_its_report_at_its_end(search) -> None:
    done = search("--trials", "1", "--report")
    assert done.status == 0 and "page:  out/report.html" in done.out
    assert "Why each layer was kept or cut" in Path("out/report.html").read_text()
    search("--output", "other", "--trials", "1", "--no-report")
    assert Path("other/groups.json").exists() and not Path("other/report.html").exists()


@pytest.mark.parametrize("failure", [UsageError("no page today"), KeyboardInterrupt()])
def test_a_report_that_fails_is_a_note(
    search, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fails(*runs: object) -> None:
        raise failure

    monkeypatch.setattr("autoprune.engine.search_task.report", fails)
    done = search("--trials", "1", "--report")
    assert done.status == 0 and Path("out/result.json").exists()
    assert f"the report cannot be written: {type(failure).__name__}" in done.err
    assert "page:" not in done.out


def test_plotly_is_imported_for_a_page_alone() -> None:
    """Neither the help nor a search needs it before its end."""
    script = (
        "import sys, autoprune.api, autoprune.cli.app as app\n"
        "app.main(['--help'])\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'plotly', 'narwhals'}\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
