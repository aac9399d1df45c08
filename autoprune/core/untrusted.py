"""Files that may come from anybody: read within bounds, each value checked for type and range.

What reads a file raises `OSError` or `ValueError`, whatever is wrong with it, and nothing else.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from autoprune.errors import LONGEST_MESSAGE, printable, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = TypeVar("Value")
Reader = Callable[[Any], Value]

LONGEST_TEXT = 300
# Names of modules and tensors.
LONGEST_NAME = 1000
# Channels, features or pixels along one dimension. Curves are written out over all lengths.
WIDEST = 2_000_000
# Of anything measured, in whatever unit: products of a few such numbers are finite and not zero.
LEAST, MOST = 1e-12, 1e12
# Of any number that is only shown or compared.
HUGE = 1e300

# A table of a large network takes a few megabytes.
LARGEST_FILE = 64 * 2**20
# TOML is read slowly, and holds options alone.
LARGEST_TOML = 2**20
# No file of ours has ten.
DEEPEST = 50


def check_regular(path: Path) -> None:
    """Refuse what is no ordinary file: a pipe would block, a device might never end.

    Raises:
        OSError: there is nothing, or it cannot be reached.
        ValueError: it is a directory, pipe, socket or device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is a {'directory' if stat.S_ISDIR(mode) else 'device or a pipe'}")


def read_text(path: Path, most: int = LARGEST_FILE) -> str:
    """Return what a file of no more than so many bytes holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no ordinary file, no text, or too large.
    """
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most // 2**20} MB")
    return content.decode("utf-8")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or as `parse_json` says.
    """
    return parse_json(read_text(path))


def parse_json(content: str) -> Any:
    """Return what a JSON text means.

    Raises:
        ValueError: it is not JSON, too deep, has a key twice in one object, or a number of
            thousands of digits.
    """
    try:
        return _shallow(json.loads(content, object_pairs_hook=_unique))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, or as `parse_json` says.
    """
    content = read_text(path, LARGEST_TOML)
    try:
        return _shallow(tomllib.loads(content))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _shallow(value: Value) -> Value:
    """Return a value that nothing recursive fails on later."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return value


def fields(
    data: Any, readers: Mapping[str, Reader[Any]], optional: Mapping[str, Reader[Any]] | None = None
) -> dict[str, Any]:
    """Return the fields of an object that has these, perhaps some optional ones, and no others.

    Raises:
        ValueError: one is missing, unknown, of another type or out of range.
    """
    optional = optional or {}
    found = known(data, readers, optional)
    if strange := data.keys() - found.keys():
        raise ValueError(f"{shown(min(strange))} is unknown")
    return found


def known(
    data: Any, readers: Mapping[str, Reader[Any]], optional: Mapping[str, Reader[Any]] | None = None
) -> dict[str, Any]:
    """Return these fields of an object that may have others: later versions add some.

    Raises:
        ValueError: one is missing, of another type or out of range.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{shown(data)} is no object with {', '.join(readers)}")
    if missing := readers.keys() - data.keys():
        raise ValueError(f"{shown(min(missing))} is missing")
    there = {key: read for key, read in (optional or {}).items() if key in data}
    return {key: _named(key, read, data[key]) for key, read in {**readers, **there}.items()}


def table(read: Reader[Value]) -> Reader[dict[str, Value]]:
    """Return what reads an object of any names, with such a value under each."""

    def read_all(data: Any) -> dict[str, Value]:
        if not isinstance(data, dict):
            raise ValueError(f"{shown(data)} is no object")
        return {label(key): _named(key, read, value) for key, value in data.items()}

    return read_all


def _named(key: str, read: Reader[Value], value: Any) -> Value:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{key if key.isidentifier() else shown(key)}: {error}") from error


def each(read: Reader[Value]) -> Reader[tuple[Value, ...]]:
    """Return what reads a list of such values."""

    def read_all(values: Any) -> tuple[Value, ...]:
        if not isinstance(values, list):
            raise ValueError(f"{shown(values)} is no list")
        return tuple(map(read, values))

    return read_all


def or_none(read: Reader[Value]) -> Reader[Value | None]:
    """Return what reads such a value, or null."""
    return lambda value: None if value is None else read(value)


def one_of(*choices: str) -> Reader[str]:
    """Return what reads one of these texts."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{shown(value)} is none of {', '.join(choices)}")
        return value

    return read


def text(value: Any) -> str:
    """Return a text that can be shown."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"{shown(value)} is no short text")
    return value


def label(value: Any) -> str:
    """Return the name of a tensor or module, which may hold any characters."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ValueError(f"{shown(value)} is no name")
    return value


def message(value: Any) -> str:
    """Return a text of any length, shortened to what can be shown."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text")
    return printable(value, LONGEST_MESSAGE)


def whole(value: Any) -> int:
    """Return a whole number."""
    if type(value) is not int or not -MOST <= value <= MOST:
        raise ValueError(f"{shown(value)} is no whole number")
    return value


def count(value: Any) -> int:
    """Return a whole number of 0 or more."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{shown(value)} is no whole number of 0 or more")
    return value


def extent(value: Any) -> int:
    """Return a length of a dimension."""
    if type(value) is not int or not 1 <= value <= WIDEST:
        raise ValueError(f"{shown(value)} is no whole number from 1 to {WIDEST}")
    return value


def amount(value: Any) -> float:
    """Return a finite number of 0 or more."""
    if type(value) not in (int, float) or not 0 <= value <= MOST:
        raise ValueError(f"{shown(value)} is not a number from 0 to {MOST:g}")
    return float(value)


def positive(value: Any) -> float:
    """Return a finite number above zero."""
    if not amount(value) >= LEAST:
        raise ValueError(f"{shown(value)} is not above zero")
    return float(value)


def finite(value: Any) -> float:
    """Return a finite number of either sign."""
    if type(value) not in (int, float) or not -HUGE <= value <= HUGE:
        raise ValueError(f"{shown(value)} is no finite number")
    return float(value)


def quantity(value: Any) -> float:
    """Return a finite number of 0 or more that may be huge: MACs, bytes."""
    if not finite(value) >= 0:
        raise ValueError(f"{shown(value)} is below zero")
    return float(value)


def real(value: Any) -> float:
    """Return a number that need not be finite: a score that overflowed."""
    return value if type(value) is float else finite(value)


def significant(number: float) -> float:
    """Return a measured number with the digits that are worth writing down."""
    return float(f"{number:.6g}")
