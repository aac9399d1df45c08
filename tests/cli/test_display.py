"""How figures are laid out in a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoprune.cli.display import console, parts, point_to, print_table, say, show_trained
from autoprune.reporting.blocks import Table

WIDE = Table("Two runs", ["run", "asked", "MACs", "KL"], [["a", "flops=0.5", "49.9 %", "0.01"]], 2)


@pytest.mark.parametrize(
    ("width", "found"),
    [
        (29, [[0, 1, 2, 3]]),  # 3 + 9 + 6 + 4 characters, and gaps of two
        (27, [[0, 1, 2], [0, 1, 3]]),
        (22, [[0, 1, 2], [0, 1, 3]]),
        (1, [[0, 1, 2], [0, 1, 3]]),
    ],
)
def test_a_table_is_parted_where_it_is_too_wide(width: int, found: list[list[int]]) -> None:
    assert parts(WIDE, width) == found


def test_a_table_of_names_alone_is_one_part() -> None:
    assert parts(Table("Names", ["run", "asked"], [["a", "flops=0.5"]], 2), 5) == [[0, 1]]


def test_a_parted_table_shows_every_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "25")
    monkeypatch.setenv("TERM", "xterm")
    assert console().width == 25
    print_table(WIDE)
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # headings are bold
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
    assert lines == [
        ["run", "asked", "MACs"],
        ["a", "flops=0.5", "49.9 %"],
        [""],
        ["run", "asked", "KL"],
        ["a", "flops=0.5", "0.01"],
        [""],
        ["Two runs"],
    ]


def test_sentences_are_broken_between_words_and_paths_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    say("stem.0 keeps 27 of 32 units [84 %].")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    say("stem.0 keeps 27 of 32 units [84 %].")
    point_to("files: runs/[a]/a name with spaces")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "stem.0 keeps 27 of 32 units [84 %].",
        "stem.0 keeps 27 of",
        "32 units [84 %].",
        "files: runs/[a]/a name with spaces",
    ]


@pytest.mark.parametrize(
    ("budget", "shown"),
    [
        ("flops=0.5", "50.00 % of the MACs of the given network"),
        ("params=0.3,flops=0.5", "25.00 % of the params, 50.00 % of the MACs of the given network"),
        ("latency=0.5", "50.00 % of the MACs of the given network"),
        (None, "50.00 % of the MACs of the given network"),
    ],
)
def test_a_training_tells_what_is_left_of_what_is_bounded(
    budget: str | None, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of MACs where nothing is bounded, or what is was not measured."""
    costs = {
        "dense": {"flops": 40, "params": 8, "latency_ms": None},
        "pruned": {"flops": 20, "params": 2, "latency_ms": None},
    }
    scores = {"given": {"top1": 0.9}, "cut": {"top1": 0.8}}
    train = {"scores": scores, "split": "test", "epochs": 1.0, "seconds": 2.0, "method": "sfp"}
    result = {"train": train, "costs": costs, "score": {}, "budget": budget}
    show_trained(SimpleNamespace(path=Path("run"), result=result))
    assert f"test split; {shown}\n" in capsys.readouterr().out
