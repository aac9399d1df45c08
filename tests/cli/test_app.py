from __future__ import annotations

import errno
import re
import subprocess
import sys

import pytest

from autoprune import api
from autoprune.agents.bayes.strategy import SAMPLERS
from autoprune.agents.registry import STRATEGIES
from autoprune.cli import app
from autoprune.importance import IMPORTANCES

COSTS = ("flops", "params")
HEAVY = ("torch", "optuna", "numpy", "scipy", "rich", "sklearn")


def test_nothing_heavy_is_imported() -> None:
    code = f"import sys, autoprune.cli.app; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_version(cli) -> None:
    for arguments in ((), ("--help",), ("search", "--help"), ("-h",)):
        done = cli(*arguments)
        assert done.status == 0 and "Usage: autoprune" in done.out and not done.err
    assert cli("search", "--help").out.count("multiply-accumulates") == 1
    assert cli("--version").out.startswith("autoprune 0.")


def test_help_names_every_choice(cli) -> None:
    text = " ".join(cli("search", "--help-all").out.split())
    for names in (STRATEGIES, SAMPLERS, IMPORTANCES, COSTS):
        for name in names:
            assert re.search(rf"\b{name}\b", text), name


def test_a_reader_that_leaves_early() -> None:
    """Whether it leaves after a line or before there is one."""
    inspect = f"{sys.executable} -m autoprune.cli.app inspect --json"
    for reader, seen in (("head -1", "{\n"), ("true", "")):
        command = f"{inspect} | {reader}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (seen, "")


def _raising(error: BaseException):
    def search(*args: object, **options: object) -> None:
        raise error

    return search


class _StorageError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (_StorageError("(sqlite3.OperationalError) database or disk is full"), "disk is full"),
        (_StorageError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/config.toml"),
            "'out/config.toml'",
        ),
    ],
)
def test_faults_of_the_machine(search, monkeypatch, error: Exception, word: str) -> None:
    monkeypatch.setattr(api, "search", _raising(error))
    done = search()
    assert done.status == 2 and done.err.startswith("Error: ") and word in done.err
    assert len(done.err.splitlines()) == 1


def test_a_bug_keeps_its_traceback(search, monkeypatch) -> None:
    monkeypatch.setattr(api, "search", _raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        search()


def test_interrupted_before_anything(search, cli, monkeypatch) -> None:
    monkeypatch.setattr(api, "search", _raising(KeyboardInterrupt()))
    done = search()
    assert done.status == 130 and "nothing was written" in done.err
    monkeypatch.setattr("autoprune.models.loading.load_model", _raising(KeyboardInterrupt()))
    done = cli("inspect")
    assert done.status == 130 and done.err == "Interrupted.\n"


def test_errors_are_one_line(capsys) -> None:
    assert app._say("two\n lines", 2) == 2
    assert capsys.readouterr().err == "two lines\n"
