"""Files that may come from anybody: read within bounds.

What reads a file raises `OSError` or `ValueError`, whatever is wrong with it, and nothing else.
What may stand in a file is said by the types of `autoprune.core.records`.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = TypeVar("Value")

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
