"""Mapping from class folders to a network's outputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import UsageError, did_you_mean, file_fault


@dataclass(frozen=True)
class Numbering:
    """Labels of class folders.

    Attributes:
        labels: label of every folder name.
        classes: number of classes.
    """

    labels: Mapping[str, int]
    classes: int

    @classmethod
    def of_folders(cls, folders: Sequence[str]) -> Numbering:
        """Number the folders in the order given."""
        return cls({name: label for label, name in enumerate(folders)}, len(folders))

    @classmethod
    def of_file(cls, path: Path, folders: Sequence[str]) -> Numbering:
        """Number the folders by the lines of a text file, in the order of a network's outputs.

        A line is a folder's name or begins with it: "n01440764 tench, Tinca tinca".

        Raises:
            UsageError: the file cannot be read, or does not name each of the folders once.
        """
        lines = [line.strip() for line in _read(path)]
        whole, first = _places(lines), _places(re.split(r"[\s,]", line)[0] for line in lines)
        labels = {}
        for folder in folders:
            found = whole.get(folder) or first.get(folder) or []
            if len(found) != 1:
                raise UsageError(f"classes file {str(path)!r}: {_fault(folder, found, first)}")
            labels[folder] = found[0]
        return cls(labels, len(lines))


def _read(path: Path) -> list[str]:
    """Return the lines of a text file without empty lines at its end."""
    if not path.is_file():
        raise UsageError(f"no such classes file: {str(path)!r}.")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"classes file {str(path)!r} cannot be read: {file_fault(error)}."
        ) from error


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def _fault(folder: str, found: Sequence[int], names: Iterable[str]) -> str:
    if found:
        lines = " and ".join(str(place + 1) for place in found[:2])
        return f"lines {lines} both name the class folder {folder!r}."
    near = did_you_mean(folder, names)
    hint = near if near.startswith("did") else "write a class name per line."
    return f"no line names the class folder {folder!r}; {hint}"
