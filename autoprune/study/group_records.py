"""What a search knew of every group of channels: the contents of `groups.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from autoprune.core.records import WIDEST, Extent, Name, Quantity, Table, Width, read
from autoprune.core.untrusted import read_json

Unit: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=WIDEST)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Members(msgspec.Struct, frozen=True):
    """The weights whose outputs are a group's channels, and those that read them."""

    producers: list[Name]
    consumers: list[Name]


class Curve(msgspec.Struct, frozen=True):
    """What a group loses at some widths.

    Attributes:
        widths: units kept, rising.
        errors: relative reconstruction errors of the consumers' outputs at these widths; None if
            the criterion does not estimate them.
        losses: losses to expect at the network's output if this group alone is cut, on one scale
            for all groups; None if they are not known.
    """

    widths: list[Width]
    errors: list[Quantity] | None = None
    losses: list[Quantity] | None = None

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.widths, self.errors, self.losses) if one is not None}
        if len(lengths) > 1 or self.widths != sorted(set(self.widths)):
            raise ValueError("the curve must have one value at each of its rising widths")

    def at(self, width: int) -> float | None:
        """Return the loss at a width, or the error if losses are not known; None if neither is."""
        values = self.losses or self.errors
        if values is None or width not in self.widths:
            return None
        return values[self.widths.index(width)]


class Step(msgspec.Struct, frozen=True):
    """A width next to the winner's, and the costs, by name, of the winner with that width."""

    width: Width
    costs: Table[Quantity]


class GroupRecord(msgspec.Struct, frozen=True):
    """What was known of one group.

    Attributes:
        name: of the group.
        size: units in the dense network.
        lowest: fewest units that the search might keep.
        width: units that the winner keeps.
        members: the weights that share these channels.
        share: the part of the dense network's costs, by name, that goes if this group alone goes.
        curve: what cutting it loses.
        steps: the next allowed widths below and above the winner's.
        order: unit indices, the most important first; None for large groups.
    """

    name: Name
    size: Extent
    lowest: Width
    width: Width
    members: Members
    share: Table[Share]
    curve: Curve
    steps: list[Step]
    order: list[Unit] | None = None


class FrozenRecord(msgspec.Struct, frozen=True):
    """A group that could not be cut, with the reason."""

    name: Name
    size: Extent
    reason: str


class GroupRecords(msgspec.Struct, frozen=True):
    """All groups of a network, in network order."""

    groups: list[GroupRecord]
    frozen: list[FrozenRecord]
    version: int = 1


def read_groups(path: Path) -> GroupRecords:
    """Read a `groups.json`; later versions may add keys.

    Raises:
        OSError: it cannot be read.
        ValueError: it was altered: a value is missing, of another type or out of range.
    """
    return read(read_json(path), GroupRecords)
