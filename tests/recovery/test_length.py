"""Lengths of a recovery are written and read without loss."""

from __future__ import annotations

import pytest

from autoprune.recovery.length import Length


@pytest.mark.parametrize(
    ("value", "length", "text"),
    [
        ("500steps", Length(500, "steps"), "500steps"),
        (" 1 Step ", Length(1, "steps"), "1steps"),
        ("212/300steps", Length(300, "steps", 212), "212/300steps"),
        ("300/300 steps", Length(300, "steps"), "300steps"),
        ("2epochs", Length(2, "epochs"), "2epochs"),
        (".5 epoch", Length(0.5, "epochs"), "0.5epochs"),
    ],
)
def test_texts(value: str, length: Length, text: str) -> None:
    assert Length.read(value) == length
    assert str(length) == text
    assert str(Length.read(text)) == text


def test_numbers_are_seconds() -> None:
    assert Length.read(90.0) == Length(90.0, "seconds")


@pytest.mark.parametrize(
    "value", ["0steps", "0epochs", "1.5steps", "4/3steps", "0/3steps", "-1steps", "steps", "2", ""]
)
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(ValueError):
        Length.read(value)


@pytest.mark.parametrize(
    ("wanted", "done", "exceeds"),
    [
        ("500steps", "400steps", True),
        ("500steps", "500steps", False),
        ("400steps", "500steps", False),
        ("200/500steps", "300/500steps", False),
        ("500steps", "300/500steps", True),
        ("1epochs", "500steps", True),
        (0.0, "500steps", False),
        (60.0, 0.0, True),
    ],
)
def test_which_is_longer(wanted: str | float, done: str | float, exceeds: bool) -> None:
    assert Length.read(wanted).exceeds(Length.read(done)) is exceeds
