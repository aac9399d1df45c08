"""What a search decides: which units of every channel group stay.

A `PruningPolicy` is complete: it names every tensor entry that goes, so that it can be applied to a
fresh copy of the network without tracing it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from autoprune.core.bypass import Bypass
from autoprune.core.records import (
    WIDEST,
    Choice,
    Extent,
    Name,
    Natural,
    Record,
    Table,
    Text,
    Whole,
    read,
)
from autoprune.core.untrusted import read_json
from autoprune.errors import RunError, counted, file_fault, first_line, shown

Widths: TypeAlias = tuple[Extent, ...]
"""Units kept per prunable group, in the order of `Structure.groups`."""

Role: TypeAlias = Literal["producer", "consumer", "carried"]
"""A slice makes the group's channels, reads them, or goes along (BN, bias, depthwise)."""

FORMAT_VERSION = 1

# Entries of a file's slices, all together: far more than the largest networks have.
MOST_ENTRIES = 20_000_000


class Grid(Record, frozen=True):
    """Positions that are evenly spaced, in five numbers: they may stand for millions."""

    start: Natural
    unit_step: Whole
    units: Extent
    entry_step: Whole = 1
    entries: Extent = 1

    @classmethod
    def along(cls, positions: npt.NDArray[np.int64]) -> Grid:
        """Return the grid that the first row and column of positions begin."""
        start = int(positions[0, 0])
        units, entries = positions.shape
        unit_step = int(positions[1, 0]) - start if units > 1 else 1
        entry_step = int(positions[0, 1]) - start if entries > 1 else 1
        return cls(start, unit_step, units, entry_step, entries)

    def check(self) -> None:
        """Refuse positions that no dimension has.

        Raises:
            ValueError: there are too many, or some are below zero.
        """
        along, across = self.unit_step * (self.units - 1), self.entry_step * (self.entries - 1)
        if self.start + min(0, along) + min(0, across) < 0:
            raise ValueError("positions below zero")
        if self.size > WIDEST:
            raise ValueError(f"{self.size} positions are more than a dimension has")

    @property
    def size(self) -> int:
        """How many positions there are."""
        return self.units * self.entries

    def positions(self) -> npt.NDArray[np.int64]:
        """Return them, (units, entries)."""
        column = self.start + self.unit_step * np.arange(self.units, dtype=np.int64)[:, None]
        return column + self.entry_step * np.arange(self.entries, dtype=np.int64)[None, :]

    def to_json(self) -> dict[str, int]:
        """Return JSON data: the form that fingerprints are made of."""
        line = {"start": self.start, "unit_step": self.unit_step, "units": self.units}
        along = {"entry_step": self.entry_step, "entries": self.entries}
        return line | along if self.entries > 1 else line


@dataclass(frozen=True, eq=False)
class Slice:
    """The entries of one dimension of one tensor that belong to a group's units.

    `positions` has shape (units, entries per unit).
    """

    tensor: str
    dim: int
    role: Role
    positions: npt.NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; positions on a regular grid take few numbers."""
        grid = Grid.along(self.positions)
        is_regular = np.array_equal(grid.positions(), self.positions)
        return {
            "tensor": self.tensor,
            "dim": self.dim,
            "role": self.role,
            "positions": grid.to_json() if is_regular else self.positions.tolist(),
        }


@dataclass(frozen=True, eq=False)
class GroupPolicy:
    """Which of one group's `size` units stay, and where they live."""

    size: int
    kept: tuple[int, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, eq=False)
class PruningPolicy:
    """Which units of every pruned group stay.

    Attributes:
        groups: by group name; groups that stay whole may be left out.
        shapes_hash: `hash_shapes` of the network that the policy is for.
        bypasses: modules that are gone, since groups inside them have no units left.
    """

    groups: Mapping[str, GroupPolicy]
    shapes_hash: str
    bypasses: tuple[Bypass, ...] = ()

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Group name to kept unit indices."""
        return {name: group.kept for name, group in self.groups.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of tensor names, shapes and groups; never of weight values."""
        return _fingerprint(self.shapes_hash, self._groups_json())

    def to_json(self) -> dict[str, Any]:
        """Return JSON data."""
        groups = self._groups_json()
        data = {
            "version": FORMAT_VERSION,
            "fingerprint": _fingerprint(self.shapes_hash, groups),
            "shapes": self.shapes_hash,
            "groups": groups,
        }
        return {**data, "checksum": _digest(data)}

    def _groups_json(self) -> dict[str, Any]:
        return {
            name: {
                "size": group.size,
                "kept": list(group.kept),
                "slices": [s.to_json() for s in group.slices],
            }
            for name, group in self.groups.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPolicy:
        """Inverse of `to_json`.

        Positions are written out last, when everything else is known to be right: a file of a few
        kilobytes could ask for gigabytes of them.

        Raises:
            RunError: the data is no policy, of another format version, altered, or inconsistent.
        """
        if isinstance(data, dict) and data.get("version", FORMAT_VERSION) != FORMAT_VERSION:
            raise RunError(
                f"policy format version {shown(data['version'])} is not known; this "
                f"autoprune reads version {FORMAT_VERSION}."
            )
        try:
            groups = read(data, _StoredPolicy).groups
        except ValueError as error:
            raise RunError(f"not a pruning policy: {first_line(error)}.") from error
        _check_digests(data)
        entries = sum(one.size for group in groups.values() for one in group.slices)
        if entries > MOST_ENTRIES:
            raise RunError(f"the policy names {entries:.1e} tensor entries: it was altered.")
        found = {name: group.expanded(shown(name)) for name, group in groups.items()}
        return cls(found, data["shapes"])

    def save(self, path: Path) -> None:
        """Write the policy as JSON."""
        path.write_text(json.dumps(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: Path) -> PruningPolicy:
        """Read a policy written by `save`.

        Raises:
            RunError: no such file, or no policy in it.
        """
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read policy {str(path)!r}: {file_fault(error)}") from error
        return cls.from_json(data)


class _StoredSlice(Record, frozen=True):
    """A slice as its file has it: evenly spaced positions are not written out yet."""

    tensor: Name
    dim: Natural
    role: Choice[Role]
    positions: Grid | tuple[tuple[Natural, ...], ...]

    def __post_init__(self) -> None:
        if isinstance(self.positions, Grid):
            self.positions.check()
        elif len(set(map(len, self.positions))) != 1 or not self.positions[0]:
            raise ValueError("positions: rows of unequal lengths, or none")

    @property
    def size(self) -> int:
        if isinstance(self.positions, Grid):
            return self.positions.size
        return len(self.positions) * len(self.positions[0])

    def expanded(self) -> Slice:
        own = self.positions
        array = own.positions() if isinstance(own, Grid) else np.array(own, dtype=np.int64)
        return Slice(self.tensor, self.dim, self.role, array)


class _StoredGroup(Record, frozen=True):
    size: Extent
    kept: tuple[Whole, ...]
    slices: tuple[_StoredSlice, ...]

    def expanded(self, name: str) -> GroupPolicy:
        """Return the group with its positions.

        Raises:
            RunError: parts of the group do not fit together.
        """
        kept, size = self.kept, self.size
        if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
            raise RunError(
                f"group {name}: kept must be distinct rising unit indices below {size}, "
                f"but got {shown(list(kept))}."
            )
        slices = tuple(one.expanded() for one in self.slices)
        for units in (len(one.positions) for one in slices):
            if units != size:
                raise RunError(
                    f"group {name}: a slice has {counted(units, 'unit')}, the group {size}."
                )
        return GroupPolicy(size, kept, slices)


class _StoredPolicy(msgspec.Struct):
    version: Natural
    shapes: Text
    fingerprint: Text
    groups: Table[_StoredGroup]


def _check_digests(data: Mapping[str, Any]) -> None:
    """Refuse a file that is not as it was written.

    Raises:
        RunError: its structure was altered, or, where it has a checksum, anything.
    """
    if data["fingerprint"] != _fingerprint(data["shapes"], data["groups"]):
        raise RunError("the policy's fingerprint does not match its groups: it was altered.")
    rest = {key: value for key, value in data.items() if key != "checksum"}
    if "checksum" in data and data["checksum"] != _digest(rest):
        raise RunError("the policy's checksum does not match what is in it: it was altered.")


def _fingerprint(shapes_hash: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    structure = {name: [group["size"], group["slices"]] for name, group in groups.items()}
    return _digest([shapes_hash, structure])


def hash_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of tensor names and shapes."""
    return _digest({name: list(shape) for name, shape in shapes.items()})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
