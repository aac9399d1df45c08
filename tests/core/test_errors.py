"""What becomes of what the user's code raises, returns and shows."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.errors import (
    AutopruneError,
    DataError,
    EvaluateError,
    counted,
    describe,
    did_you_mean,
    file_fault,
    first_line,
    shown,
    spelling,
    spelt,
    type_of,
    user_code,
)
from autoprune.evaluation.measurement import number_in
from autoprune.options.commands import on_command_line


class Silent(Exception):
    """Cannot say what it is, not even why it cannot."""

    def __str__(self) -> str:
        raise Silent

    __repr__ = __float__ = __str__


class Leaves(Silent):
    def __str__(self) -> str:
        sys.exit(0)

    __repr__ = __float__ = __str__


class Beyond(BaseException):
    """As timeouts of some packages, which no `except Exception` is to take."""


def raises(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (raises(KeyError("top5")), "KeyError: 'top5'"),
        (raises(StopIteration()), "StopIteration: StopIteration"),
        (raises(ValueError("\n first\nsecond")), "ValueError: first"),
        (raises(ValueError("\ud800")), r"ValueError: \ud800"),
        (raises(Silent()), "Silent: Silent"),
        (raises(Leaves()), "Leaves: Leaves"),
        (raises(Beyond("late")), "Beyond: late"),
        (raises(GeneratorExit()), "GeneratorExit: GeneratorExit"),
        (raises(MemoryError()), "out of memory (MemoryError: MemoryError)"),
        (
            raises(RuntimeError("CUDA error: out of memory")),
            "out of memory (RuntimeError: CUDA error: out of memory)",
        ),
        (
            raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")),
            "out of memory (OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.)",
        ),
        (lambda: sys.exit(0), "SystemExit: 0"),
        (lambda: sys.exit("done"), "SystemExit: done"),
    ],
    ids=lambda value: value if isinstance(value, str) else "raised",
)
def test_whatever_the_users_code_raises_is_one_line(call: Callable[[], Any], line: str) -> None:
    with pytest.raises(EvaluateError) as caught, user_code(EvaluateError):
        call()
    assert str(caught.value) == line == describe(caught.value.__cause__)  # type: ignore[arg-type]


def test_what_passes() -> None:
    with pytest.raises(KeyboardInterrupt), user_code(EvaluateError):
        raise KeyboardInterrupt
    with pytest.raises(DataError), user_code(EvaluateError, passes=(AutopruneError,)):
        raise DataError("ours")
    with pytest.raises(EvaluateError), user_code(EvaluateError):
        raise DataError("ours")
    with user_code(EvaluateError):
        pass


def test_memory_that_a_cpu_lacks_comes_first() -> None:
    with pytest.raises(EvaluateError, match=r"^out of memory \(RuntimeError: .*allocate"):
        with user_code(EvaluateError):
            torch.empty(2**50)


def test_what_is_shown_of_values() -> None:
    assert shown([1, 2]) == "[1, 2]" and shown("a\nb") == repr("a\nb")
    assert shown(Silent()).startswith("<Silent instance") and shown(Leaves()) == "a Leaves"
    assert shown("x" * 999) == f"'{'x' * 57}...{'x' * 58}'"
    assert first_line(Silent()) == "Silent"


@pytest.mark.filterwarnings("error")
def test_numbers() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    for answer, value in (
        (3, 3.0), (True, 1.0), (weight, 2.0), (weight.sum(), 2.0), (10**400, None), ("3", None),
        (b"3", None), (None, None), (3j, None), (torch.ones(2), None), (Silent(), None),
        (Leaves(), None),
    ):  # fmt: skip
        assert number_in(answer) == value
    assert math.isnan(number_in(math.nan) or 0.0)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_bytes(b"\xff"), "it is not text"),
        (lambda path: path.write_text("{]"), "it is not JSON (line 1, column 2)"),
    ],
)
def test_faults_of_files_are_plain_words(
    write: Callable[[Path], Any], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "it.json"
    write(path)
    with pytest.raises((OSError, ValueError)) as caught:
        json.loads(path.read_text(encoding="utf-8"))
    assert file_fault(caught.value) == fault
    named = f": {str(path)!r}" if isinstance(caught.value, OSError) else ""
    assert first_line(caught.value) == fault + named


def test_a_hint_ignores_case_and_names_forms_last() -> None:
    names, forms = ("zeta", "alpha"), ["file.py:NAME"]
    assert did_you_mean("ALPHA", names, forms) == "did you mean 'alpha'?"
    assert did_you_mean("x", names, forms) == "choose one of: alpha, zeta, file.py:NAME."


def test_numbers_and_types_in_words() -> None:
    assert [counted(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert (counted(2, "class"), counted(0.5, "point")) == ("2 classes", "0.5 points")
    assert (type_of(None), type_of(1)) == ("None", "an int")


def test_options_are_named_as_their_reader_writes_them() -> None:
    def message() -> tuple[str, str, str]:
        return spelt("max_drop"), spelt("resume", True), spelt("budget", "flops=0.5")

    in_python = ("max_drop", "resume=True", "budget='flops=0.5'")
    assert message() == in_python
    with spelling(on_command_line):
        assert message() == ("--max-drop", "--resume", "--budget flops=0.5")
        assert spelt("from_run", "a run") == "--from 'a run'"
        assert spelt("max_drop", 1) == "--max-drop 1"
    assert message() == in_python
