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
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from autoprune.core.bypass import Bypass, check_order, is_dropped
from autoprune.core.edits import AttributeEdit, Numbers
from autoprune.core.records import (
    Choice,
    Extent,
    Name,
    Natural,
    Record,
    Table,
    Text,
    Whole,
    Width,
    plain,
    read,
)
from autoprune.core.slices import Grid, Role, Slice
from autoprune.core.untrusted import read_json
from autoprune.core.view_sizes import Changes, InferredSize
from autoprune.errors import RunError, counted, file_fault, first_line, shown

Widths: TypeAlias = tuple[Width, ...]

SomeWidths: TypeAlias = Widths | Sequence[Widths] | npt.NDArray[Any]
"""Widths of one network, or of several, (…, groups)."""
"""Units kept per prunable group, in the order of `Structure.groups`."""

VERSIONS = (1, 2)
"""Formats that are read: the second has edits, inferred sizes and groups without units."""

_NEEDS = f"that needs format version {VERSIONS[1]}"

# Entries of a file's slices, all together: far more than the largest networks have.
MOST_ENTRIES = 20_000_000


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
        edits: attributes of modules that follow the groups' widths.
        bypasses: modules that are gone, since groups inside them have no units left.
        inferred: sizes of views that the cut network infers.
    """

    groups: Mapping[str, GroupPolicy]
    shapes_hash: str
    edits: tuple[AttributeEdit, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    inferred: tuple[InferredSize, ...] = ()

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Group name to kept unit indices."""
        return {name: group.kept for name, group in self.groups.items()}

    @property
    def numbers(self) -> Numbers:
        """Values that attributes have in the cut network."""
        sizes = {name: group.size for name, group in self.groups.items()}
        kept = {name: len(group.kept) for name, group in self.groups.items()}
        return {(e.module, e.attribute): e.cut_value(sizes, kept) for e in self.edits}

    @property
    def changes(self) -> Changes:
        """What a cut does to a network's modules, besides cutting tensors."""
        return {"numbers": self.numbers, "bypasses": self.bypasses, "inferred": self.inferred}

    @property
    def fingerprint(self) -> str:
        """Hash of names, shapes, groups, edits and inferred sizes; never of weight values."""
        fingerprint: str = self.to_json()["fingerprint"]
        return fingerprint

    def to_json(self) -> dict[str, Any]:
        """Return JSON data, in the first format that has all of it."""
        data: dict[str, Any] = {
            "version": VERSIONS[0],
            "fingerprint": "",
            "shapes": self.shapes_hash,
            "groups": self._groups_json(),
        }
        if self.edits or self.inferred or not all(self.kept.values()):
            data |= {"version": VERSIONS[1], "edits": [plain(edit) for edit in self.edits]}
        if self.bypasses:
            data["bypasses"] = [plain(bypass) for bypass in self.bypasses]
        if self.inferred:
            data["inferred"] = [plain(one) for one in self.inferred]
        data["fingerprint"] = _fingerprint(data)
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
        if isinstance(data, dict) and data.get("version", VERSIONS[0]) not in VERSIONS:
            raise RunError(
                f"policy format version {shown(data['version'])} is not known; this "
                f"autoprune reads versions {' and '.join(map(str, VERSIONS))}."
            )
        try:
            stored = read(data, _StoredPolicy)
            stored.check()
        except ValueError as error:
            raise RunError(f"not a pruning policy: {first_line(error)}.") from error
        _check_digests(data)
        groups = stored.groups
        entries = sum(one.size for group in groups.values() for one in group.slices)
        if entries > MOST_ENTRIES:
            raise RunError(f"the policy names {entries:.1e} tensor entries: it was altered.")
        found = {name: group.expanded(shown(name)) for name, group in groups.items()}
        return cls(found, data["shapes"], stored.edits, stored.bypasses, stored.inferred)

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
        if list(kept) != sorted(set(kept)) or not all(0 <= unit < size for unit in kept):
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
    edits: tuple[AttributeEdit, ...] = ()
    bypasses: tuple[Bypass, ...] = ()
    inferred: tuple[InferredSize, ...] = ()

    def check(self) -> None:
        """Refuse what its version does not have, and edits or bypasses that do not fit the groups.

        Raises:
            ValueError: the file is inconsistent.
        """
        if self.version == VERSIONS[0]:
            for name, group in self.groups.items():
                if not group.kept:
                    raise ValueError(f"group {shown(name)} keeps no unit: {_NEEDS}")
            if self.edits:
                raise ValueError(f"it changes {self.edits[0].name}: {_NEEDS}")
            if self.bypasses:
                raise ValueError(f"it lacks {shown(self.bypasses[0].module)}: {_NEEDS}")
            if self.inferred:
                module = shown(self.inferred[0].module)
                raise ValueError(f"it infers sizes of views in {module}: {_NEEDS}")
        if len({(one.module, one.view) for one in self.inferred}) < len(self.inferred):
            raise ValueError("two sizes of one view are inferred")
        if len({(edit.module, edit.attribute) for edit in self.edits}) < len(self.edits):
            raise ValueError("two edits of one attribute")
        for edit in self.edits:
            edit.check({name: group.size for name, group in self.groups.items()})
        check_order(self.bypasses)
        for name, group in self.groups.items():
            gone = all(is_dropped(one.tensor, self.bypasses) for one in group.slices)
            if not group.kept and not gone:
                raise ValueError(f"group {shown(name)} keeps no unit, but its layers are not gone")


def _check_digests(data: Mapping[str, Any]) -> None:
    """Refuse a file that is not as it was written.

    Raises:
        RunError: its structure was altered, or, where it has a checksum, anything.
    """
    if data["fingerprint"] != _fingerprint(data):
        raise RunError("the policy's fingerprint does not match its groups: it was altered.")
    rest = {key: value for key, value in data.items() if key != "checksum"}
    if "checksum" in data and data["checksum"] != _digest(rest):
        raise RunError("the policy's checksum does not match what is in it: it was altered.")


def _fingerprint(data: Mapping[str, Any]) -> str:
    structure = {name: [group["size"], group["slices"]] for name, group in data["groups"].items()}
    changes = [data[key] for key in ("edits", "inferred") if data.get(key)]
    return _digest([data["shapes"], structure, *changes])


def hash_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of tensor names and shapes."""
    return _digest({name: list(shape) for name, shape in shapes.items()})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
