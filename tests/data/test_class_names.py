"""Labels of class folders, numbered or named in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.data.class_names import Numbering
from autoprune.errors import UsageError


def test_folders_are_numbered_in_their_order() -> None:
    assert Numbering.of_folders(["b", "a"]) == Numbering({"b": 0, "a": 1}, 2)


def test_lines_of_a_file_are_the_outputs(tmp_path: Path) -> None:
    """A whole line goes before its first word; outputs without a folder count as classes."""
    file = tmp_path / "classes.txt"
    file.write_text("n01 tench, Tinca\nhouse cat\n\nhouse\nn02,goldfish\n\n")
    found = Numbering.of_file(file, ["n02", "house", "n01"])
    assert found == Numbering({"n02": 4, "house": 3, "n01": 0}, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog", "no line names the class folder 'cow'; write a class name per line"),
        ("cows", "no line names the class folder 'cow'; did you mean 'cows'?"),
        ("cow\ndog\ncow", "lines 1 and 3 both name the class folder 'cow'"),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        Numbering.of_file(file, ["cow"])
    assert message in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such classes file"):
        Numbering.of_file(tmp_path / "none.txt", ["cow"])
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="it is not text"):
        Numbering.of_file(tmp_path / "bad.txt", ["cow"])
