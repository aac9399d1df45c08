"""A module that a pruned network does without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoprune.core.records import Name, Record
from autoprune.errors import shown


class Bypass(Record, frozen=True, omit_defaults=True):
    """A module that is replaced by some of its own children, one after the other, or by zeros.

    Attributes:
        module: Its path.
        through: Names of the children, in the order in which they run; without any, what enters
            the module leaves it unchanged.
        zero: Whether zeros leave it instead, in the shape of what enters.
    """

    module: Name
    through: tuple[Name, ...] = ()
    zero: bool = False

    def __post_init__(self) -> None:
        if not self.module:
            raise ValueError("the network itself cannot be replaced by its children")
        if any(not one or "." in one for one in self.through):
            raise ValueError(f"through: {shown(list(self.through))} are not names of children")
        if len(set(self.through)) < len(self.through):
            raise ValueError(f"through: {shown(list(self.through))} names a child twice")
        if self.zero and self.through:
            raise ValueError(f"{shown(self.module)} gives zeros, and what its children give")

    def drops(self, tensor: str) -> bool:
        """Return whether a parameter or buffer is gone with the module."""
        inside = tensor.removeprefix(f"{self.module}.")
        return inside != tensor and inside.partition(".")[0] not in self.through


def is_dropped(tensor: str, bypasses: Iterable[Bypass]) -> bool:
    """Return whether a parameter or buffer is gone with one of some modules."""
    return any(one.drops(tensor) for one in bypasses)


def check_order(bypasses: Sequence[Bypass]) -> None:
    """Refuse a module that is replaced twice, or once it is gone with another.

    Raises:
        ValueError: one is.
    """
    for place, one in enumerate(bypasses):
        for other in bypasses[:place]:
            if one.module == other.module or one.module.startswith(f"{other.module}."):
                raise ValueError(f"module {shown(one.module)} is replaced twice")
