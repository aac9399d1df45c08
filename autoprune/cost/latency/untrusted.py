"""Values of JSON files that may come from anybody, each checked for its type and its range."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")
Reader = Callable[[Any], Value]

LONGEST_TEXT = 300
# Channels, features or pixels along one dimension. Curves are written out over all lengths.
WIDEST = 2_000_000
# Of anything measured, in whatever unit: products of a few such numbers are finite and not zero.
LEAST, MOST = 1e-12, 1e12

# A table of a large network takes a few megabytes.
LARGEST_FILE = 64 * 2**20


def read_text(path: Path) -> str:
    """Return what a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, or too large.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE // 2**20} MB")
    return content.decode("utf-8")


def fields(data: Any, readers: Mapping[str, Reader[Any]]) -> dict[str, Any]:
    """Return the fields of an object that has these and no others.

    Raises:
        ValueError: one is missing, unknown, of another type or out of range.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{reprlib.repr(data)} is no object with {', '.join(readers)}")
    if strange := data.keys() ^ readers.keys():
        name = min(strange)
        raise ValueError(f"{reprlib.repr(name)} is {'unknown' if name in data else 'missing'}")
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read(data[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def text(value: Any) -> str:
    """Return a text that can be shown."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"{reprlib.repr(value)} is no short text")
    return value


def count(value: Any) -> int:
    """Return a whole number of 0 or more."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{reprlib.repr(value)} is no whole number of 0 or more")
    return value


def extent(value: Any) -> int:
    """Return a length of a dimension."""
    if type(value) is not int or not 1 <= value <= WIDEST:
        raise ValueError(f"{reprlib.repr(value)} is no whole number from 1 to {WIDEST}")
    return value


def amount(value: Any) -> float:
    """Return a finite number of 0 or more."""
    if type(value) not in (int, float) or not 0 <= value <= MOST:
        raise ValueError(f"{reprlib.repr(value)} is no number from 0 to {MOST:g}")
    return float(value)


def positive(value: Any) -> float:
    """Return a finite number above zero."""
    if not amount(value) >= LEAST:
        raise ValueError(f"{reprlib.repr(value)} is not above zero")
    return float(value)


def each(read: Reader[Value]) -> Reader[tuple[Value, ...]]:
    """Return what reads a list of such values."""

    def read_all(values: Any) -> tuple[Value, ...]:
        if not isinstance(values, list):
            raise ValueError(f"{reprlib.repr(values)} is no list")
        return tuple(map(read, values))

    return read_all


def significant(number: float) -> float:
    """Return a measured number with the digits that are worth writing down."""
    return float(f"{number:.6g}")
