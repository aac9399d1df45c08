"""Records of files: what their types let through, and how they say what is wrong."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.records import (
    WIDEST,
    AboveZero,
    Choice,
    Extent,
    Finite,
    Measured,
    Message,
    Name,
    Natural,
    Quantity,
    Real,
    Record,
    Stated,
    Table,
    Text,
    Whole,
    plain,
    read,
)
from autoprune.core.untrusted import parse_json
from autoprune.errors import LONGEST_MESSAGE, printable

WRONG: dict[str, tuple[Any, list[Any]]] = {
    "Whole": (Whole, [True, 1.0, "1", None, 10**13, -(10**13), 10**4000]),
    "Natural": (Natural, [True, -1, 1.0, 10**4000]),
    "Extent": (Extent, [True, 0, 2.0, "2", WIDEST + 1, math.nan]),
    "Measured": (Measured, [True, -0.1, 1.1e12, 10**13, math.nan, math.inf, "1", None]),
    "AboveZero": (AboveZero, [True, 0, 1e-13, -1, 1.1e12, math.nan, math.inf, "1", [1.0]]),
    "Finite": (Finite, [True, math.nan, math.inf, -math.inf, 1.1e300, 10**400, "1"]),
    "Quantity": (Quantity, [-1, math.nan, math.inf, -(10**400), 1.1e300, True]),
    "Real": (Real, [True, None, 10**400, "nan"]),
    "Name": (Name, [None, 1, "x" * 1001, ["a"]]),
    "Text": (Text, [None, 1, "x" * 301, "\x1b[2J", "a\nb", "\u202e", "\ud800", ["a"]]),
    "Message": (Message, [None, 1, ["a"]]),
    "Choice": (Choice[Literal["a", "b"]], [None, "c", "", 1, ["a"], {}]),
    "list": (tuple[Natural, ...], [{}, "ab", [1, -1], None, [[1]], [True]]),
    "Table": (Table[Natural], [[], {"a": -1}, {"a" * 1001: 1}, None, {"a": {}}]),
}
RIGHT: list[tuple[Any, list[Any]]] = [
    (Whole, [0, 10**12, -(10**12)]),
    (Natural, [0, 10**12]),
    (Extent, [1, WIDEST]),
    (Measured, [0.0, -0.0, 1e12, 5e-324]),
    (AboveZero, [1e-12, 1e12]),
    (Finite, [-1e300, 0.0, 1e300]),
    (Quantity, [0.0, 1e300]),
    (Real, [math.inf, -math.inf, 1e308]),
    (Name, ["", "\x1b\n\ud800", "x" * 1000]),
    (Text, ["", "é 日", "x" * 300]),
    (Message, ["", "short"]),
    (Choice[Literal["a", "b"]], ["a", "b"]),
    (Table[Natural], [{}, {"": 1, "\ud800\x1b": 2}]),
]


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind, values in WRONG.values() for value in values]
)
def test_values_out_of_range_are_refused_in_few_words(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"is not|is none of") as refused:
        read(value, kind)
    assert len(str(refused.value)) < LONGEST_MESSAGE or isinstance(value, dict)


@pytest.mark.parametrize(("kind", "value"), [(kind, v) for kind, some in RIGHT for v in some])
def test_the_ends_of_ranges_are_read(kind: Any, value: Any) -> None:
    found = read(value, kind)
    assert found == value and type(found) is type(value)


def test_whole_numbers_are_numbers_and_lists_are_tuples() -> None:
    for kind in (Measured, AboveZero, Finite, Quantity, Real):
        assert repr(read(1, kind)) == "1.0"
    assert math.isnan(read(math.nan, Real))
    assert read([[1], []], tuple[tuple[Natural, ...], ...]) == ((1,), ())
    assert read("x" * 9999, Message) == printable("x" * 9999, LONGEST_MESSAGE)


class Inner(Record, frozen=True):
    ms: AboveZero
    names: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) > 1:
            raise ValueError("too many names")


class Outer(Record, frozen=True):
    inner: Inner
    several: tuple[Inner, ...] = ()
    costs: Table[Natural] = {}  # noqa: RUF012
    stated: Stated[Inner] | None = None


class Excerpt(msgspec.Struct):
    ms: AboveZero


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({}, "'inner' is missing"),
    ({"inner": [1]}, r"inner: \[1\] is not an object"),
    ({"inner": {}}, "inner: 'ms' is missing"),
    ({"inner": {"ms": -0.5}}, "inner.ms: -0.5 is not a number of at least 1e-12"),
    ({"inner": {"ms": "1"}}, "inner.ms: '1' is not a number"),
    ({"inner": {"ms": 1, "x": 2}}, "inner: 'x' is unknown"),
    ({"inner": {"ms": 1, "a\nb`": 2}}, r"inner: 'a\\nb`' is unknown"),
    ({"inner": {"ms": 1, "names": ["a", "b"]}}, "inner: too many names"),
    ({"inner": {"ms": 1, "names": ["a", 3]}}, r"inner.names\[1\]: 3 is not a text"),
    ({"inner": {"ms": 1, "names": "ab"}}, "inner.names: 'ab' is not a list"),
    ({"several": [{"ms": 1}, {"ms": True}]}, r"several\[1\].ms: True is not a number"),
    ({"costs": {"a": 1, "b": 1.5}}, "costs: b: 1.5 is not a whole number"),
    ({"costs": {"0.b": -1}}, "costs: '0.b': -1 is not a whole number of at least 0"),
    ({"stated": {"ms": 1}}, "stated: 'names' is missing"),
    ({"x - at `$.y": 1, "inner": {"ms": 1}}, r"^'x - at `\$.y' is unknown$"),
    ({"\ud800": 1, "inner": {"ms": 1}}, r"'\\ud800' is not a valid text"),
    ({"inner": {"ms": "\ud800"}}, r"'\\ud800' is not a"),
]


@pytest.mark.parametrize(("data", "words"), FAULTS)
def test_a_fault_is_named_by_its_place_and_its_value(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        read(data, Outer)


def test_records_are_the_same_after_a_file() -> None:
    one = Outer(Inner(1.0, ("a",)), (Inner(0.1 + 0.2),), {"b": 2}, Inner(2.0))
    written = json.dumps(plain(one))
    assert read(parse_json(written), Outer) == one
    assert list(json.loads(written)) == ["inner", "several", "costs", "stated"]


def test_excerpts_pass_over_what_they_do_not_know() -> None:
    assert read({"ms": 1, "more": "x"}, Excerpt).ms == 1.0
    with pytest.raises(ValueError, match="'ms' is missing"):
        read({"more": "x"}, Excerpt)


RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(st.dictionaries(st.sampled_from(["inner", "several", "costs", "stated", "x"]), RUBBISH))
def test_rubbish_is_refused_in_one_line(data: dict[str, Any]) -> None:
    try:
        read(data, Outer)
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
    else:
        assert "inner" in data and "x" not in data
