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

import numpy as np
import numpy.typing as npt

from autoprune.errors import RunError, first_line

Widths: TypeAlias = tuple[int, ...]
"""Units kept per prunable group, in the order of `Structure.groups`."""

Role: TypeAlias = Literal["producer", "consumer", "carried"]
"""A slice makes the group's channels, reads them, or goes along (BN, bias, depthwise)."""

FORMAT_VERSION = 1


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
        """Return plain JSON; positions on a regular grid take four numbers."""
        start = int(self.positions[0, 0])
        units, entries = self.positions.shape
        unit_step = int(self.positions[1, 0]) - start if units > 1 else 1
        entry_step = int(self.positions[0, 1]) - start if entries > 1 else 1
        grid = _grid(start, unit_step, units, entry_step, entries)
        positions: Any = self.positions.tolist()
        if np.array_equal(grid, self.positions):
            positions = {"start": start, "unit_step": unit_step, "units": units}
            if entries > 1:
                positions |= {"entry_step": entry_step, "entries": entries}
        return {
            "tensor": self.tensor,
            "dim": self.dim,
            "role": self.role,
            "positions": positions,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Slice:
        """Inverse of `to_json`."""
        positions = data["positions"]
        if isinstance(positions, Mapping):
            array = _grid(
                positions["start"],
                positions["unit_step"],
                positions["units"],
                positions.get("entry_step", 1),
                positions.get("entries", 1),
            )
        else:
            array = np.asarray(positions, dtype=np.int64)
        return cls(data["tensor"], int(data["dim"]), data["role"], array)


def _grid(
    start: int, unit_step: int, units: int, entry_step: int, entries: int
) -> npt.NDArray[np.int64]:
    column = start + unit_step * np.arange(units, dtype=np.int64)[:, None]
    return column + entry_step * np.arange(entries, dtype=np.int64)[None, :]


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
    """

    groups: Mapping[str, GroupPolicy]
    shapes_hash: str

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Group name to kept unit indices."""
        return {name: group.kept for name, group in self.groups.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of tensor names, shapes and groups; never of weight values."""
        groups = {
            name: [group.size, [s.to_json() for s in group.slices]]
            for name, group in self.groups.items()
        }
        return _digest([self.shapes_hash, groups])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "shapes": self.shapes_hash,
            "groups": {
                name: {
                    "size": group.size,
                    "kept": list(group.kept),
                    "slices": [s.to_json() for s in group.slices],
                }
                for name, group in self.groups.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPolicy:
        """Inverse of `to_json`.

        Raises:
            RunError: the data is no policy, of another format version, or inconsistent.
        """
        try:
            if data["version"] != FORMAT_VERSION:
                raise RunError(
                    f"policy format version {data['version']!r} is not known; this autoprune "
                    f"reads version {FORMAT_VERSION}."
                )
            groups = {name: _group_from_json(name, g) for name, g in data["groups"].items()}
            policy = cls(groups, data["shapes"])
            is_altered = data["fingerprint"] != policy.fingerprint
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"not a pruning policy: {first_line(error)}.") from error
        if is_altered:
            raise RunError("the policy's fingerprint does not match its groups: it was altered.")
        return policy

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
            data = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(f"cannot read policy {str(path)!r}: {first_line(error)}") from error
        return cls.from_json(data)


def _group_from_json(name: str, data: Mapping[str, Any]) -> GroupPolicy:
    size, kept = int(data["size"]), tuple(int(unit) for unit in data["kept"])
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
        raise RunError(
            f"group {name!r}: kept must be distinct rising unit indices below {size}, "
            f"but got {list(kept)}."
        )
    return GroupPolicy(size, kept, tuple(Slice.from_json(s) for s in data["slices"]))


def hash_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of tensor names and shapes."""
    return _digest({name: list(shape) for name, shape in shapes.items()})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
