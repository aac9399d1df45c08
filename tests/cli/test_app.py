from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune import api
from autoprune.agents.bayes.strategy import SAMPLERS
from autoprune.agents.registry import STRATEGIES
from autoprune.cli import app
from autoprune.errors import UsageError
from autoprune.importance import IMPORTANCES
from autoprune.options.commands import OF_COMMANDS
from autoprune.options.option import options_of

COSTS = ("flops", "params")
HEAVY = ("torch", "optuna", "numpy", "scipy", "rich", "sklearn")


@pytest.mark.parametrize("arguments", ["", "--help", "search --help-all", "profile --help"])
def test_nothing_heavy_is_imported(arguments: str) -> None:
    """Neither by the commands nor by their help, which names all that registries hold."""
    code = (
        "import sys; from autoprune.cli.app import main\n"
        f"assert main({arguments!r}.split()) == 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# What is wrong with each is said without importing PyTorch, which takes seconds.
MISTAKES = (
    "search --budget flops=x",
    "search --budget flops=0.5 --strategy randm",
    "search --budget flops=0.5 --trials 0",
    "search --budget flops=0.5 --trials many",
    "search --budget flops=0.5 --reward kll",
    "search --trials 3",
    "search --budgt 1",
    "search --config bad.toml",
    "profile --threads many",
    "inspect --min-keep 2",
    "serch",
)


def test_mistakes_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("budget = 'half'")
    code = (
        "import sys; from autoprune.cli.app import main\n"
        f"print(*[main(words.split()) for words in {MISTAKES}])\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["2"] * len(MISTAKES) + ["False"]
    assert len(done.stderr.splitlines()) == len(MISTAKES)


def test_help_shows_the_usual_options_first(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    basic, everything = (cli("search", option).out for option in ("--help", "--help-all"))
    shown, all_shown = (
        set(re.findall(r"^  --[a-z-\[\]]+", text, re.M)) for text in (basic, everything)
    )
    declared = options_of(*OF_COMMANDS["search"]).values()
    assert len(shown) == 1 + sum(one.is_basic for one in declared) < len(all_shown) / 2
    assert len(all_shown) == 1 + sum(one.kind.parse is not None for one in declared)
    assert len(basic.splitlines()) < 75
    for text in (basic, everything):
        assert max(map(len, text.splitlines())) <= 80
        assert "path/to/file.py:factory" in text and "flops=60M,params=2.5M" in text


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
    """Whether it leaves after a line or before there is one, of a table or of JSON."""
    inspect = f"{sys.executable} -m autoprune.cli.app inspect"
    for options, reader, seen in (
        ("--json", "head -1", "{\n"),
        ("--json", "true", ""),
        ("", "head -c 5", "layer"),
        ("", "true", ""),
    ):
        command = f"{inspect} {options} | {reader}"
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
    assert done.status == 130 and done.err == "Interrupted.\n"
    monkeypatch.setattr("autoprune.models.loading.load_model", _raising(KeyboardInterrupt()))
    done = cli("inspect")
    assert done.status == 130 and done.err == "Interrupted.\n"


def test_errors_are_one_line(capsys) -> None:
    assert app._say("two\n lines", 2) == 2
    assert capsys.readouterr().err == "two lines\n"


def test_errors_that_led_to_each_other_end(search, monkeypatch) -> None:
    first, second = UsageError("the first"), ValueError("the second")
    first.__cause__, second.__context__ = second, first
    monkeypatch.setattr(api, "search", _raising(first))
    done = search()
    assert done.status == 2 and done.err == "Error: the first\n"
