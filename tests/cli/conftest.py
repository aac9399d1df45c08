"""Runs of the command line in this process, in an empty directory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from autoprune.cli.app import main

# So few images that a demo search takes about a second.
SMALL = """
calibration-samples = 96
search-samples = 96
selection-samples = 96
recover = "off"
report = false
"""


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str


Cli = Callable[..., Finished]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The demo's network is too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in an empty directory that holds small.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path afterwards
    (tmp_path / "small.toml").write_text(SMALL)

    def run(*arguments: str) -> Finished:
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        return Finished(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Return the directory and the words of one finished search; not to be changed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "small.toml").write_text(SMALL)
    out, err = io.StringIO(), io.StringIO()
    command = f"search --config {folder}/small.toml --budget flops=0.5 --trials 3 --seed 7"
    with redirect_stdout(out), redirect_stderr(err):
        status = main([*command.split(), "--verbose", "--output", str(folder / "run")])
    return folder / "run", Finished(status, out.getvalue(), err.getvalue())


@pytest.fixture
def search(cli: Cli) -> Cli:
    """Run a demo search of three trials on few images into the directory `out`."""

    def run(*arguments: str) -> Finished:
        given = list(arguments)
        for option, value in (
            ("--config", "small.toml"),
            ("--budget", "flops=0.5"),
            ("--trials", "3"),
            ("--output", "out"),
        ):
            if option not in given:
                given += [option, value]
        return cli("search", *given)

    return run
