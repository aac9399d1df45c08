from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.untrusted import (
    DEEPEST,
    LARGEST_TOML,
    parse_json,
    read_json,
    read_text,
    read_toml,
)
from autoprune.cost.latency.table import LatencyTable
from autoprune.errors import (
    LONGEST_MESSAGE,
    LONGEST_REASON,
    AutopruneError,
    TableError,
    UsageError,
    first_line,
    printable,
    shown,
)
from autoprune.profiling.journal import Journal


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_json_may_be_as_deep_as_ours_and_no_deeper() -> None:
    assert parse_json(deep(DEEPEST)) is not None
    for levels in (DEEPEST + 1, 900, 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(deep(levels))


@pytest.mark.parametrize("levels", [DEEPEST + 1, 5000])
def test_so_may_toml(levels: int, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"a = {deep(levels)}")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_toml(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "stands twice"),
        ("9" * 5000, "digits"),
        ("", "Expecting value"),
        ("{", "Expecting"),
    ],
)
def test_what_is_not_json(content: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(content)


def test_large_files_are_not_read_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("#" * (LARGEST_TOML + 1))
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_toml(path)
    path.write_text("#" * LARGEST_TOML)
    assert read_toml(path) == {}


def test_only_ordinary_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in {"pipe": "pipe", "zero": "device", ".": "directory"}.items():
        with pytest.raises(ValueError, match=words):
            read_text(tmp_path / name)
    for name in ("loop", "nothing", "x" * 5000):
        with pytest.raises(OSError, match=r"\[Errno"):
            read_json(tmp_path / name)
    with pytest.raises(ValueError, match="null"):
        read_json(tmp_path / "a\0b")


@pytest.mark.parametrize("name", ["pipe", "zero", "folder", "loop"])
def test_latency_is_read_from_ordinary_files(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TableError, match="cannot read latency table"):
        LatencyTable.load(tmp_path / name)
    with pytest.raises(UsageError, match="no measurements that can be read"):
        Journal(tmp_path / name, {})


@given(st.text(max_size=3000))
def test_messages_are_one_line_that_can_be_shown(text: str) -> None:
    for line in (str(UsageError(text)), first_line(RuntimeError(text))):
        assert len(line) <= LONGEST_MESSAGE and line.isprintable()


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(AutopruneError("what is wrong: " + "x" * 100_000 + ": what to do."))
    assert message.startswith("what is wrong: xxx") and message.endswith("xxx: what to do.")
    assert " … " in message and len(message) == LONGEST_MESSAGE
    assert printable("ab\n\x1bc", 10) == "ab  c"
    assert len(first_line(ValueError("y" * 999))) <= LONGEST_REASON
    short = "it is what it is: ü, 日本, 1."
    assert str(AutopruneError(short)) == short


def test_values_are_shown_in_few_words() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in (
        "z" * 10**5,
        10**4000,
        [[0] * 99] * 99,
        {str(i): i for i in range(999)},
        Broken(),
    ):
        assert len(shown(value)) < 500
    assert shown("a/path/of/some/length/that/is/named.toml") == repr(
        "a/path/of/some/length/that/is/named.toml"
    )
