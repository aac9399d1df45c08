"""Integers on modules that follow the widths of channel groups.

A forward pass may use a number of its module: `self.num_heads`, `num_groups`, `split(self.sizes)`.
Where channels go, such a number must go down with them. An edit says by how much, so that a policy
can be applied to a fresh copy of the network without tracing it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from autoprune.core.records import Choice, Name, Natural, Record, Table

Number: TypeAlias = int | tuple[int, ...]
"""What an attribute holds: an integer or several."""

Numbers: TypeAlias = Mapping[tuple[str, str], Number]
"""Values of attributes, by module path and name."""

Rule: TypeAlias = Literal["sum", "product"]


class Share(NamedTuple):
    """What an integer has of one group: `per_unit` of it for each of the group's units."""

    per_unit: int
    size: int
    kept: int


def sum_of_shares(integer: int, shares: list[Share]) -> int:
    """Return an integer without the shares of the removed units, as behind a concatenation."""
    return integer - sum(s.per_unit * (s.size - s.kept) for s in shares)


def product_of_shares(integer: int, shares: list[Share]) -> int:
    """Return an integer that every group scales, as heads and their width scale all features."""
    kept, sizes = (
        math.prod(column) for column in ([s.kept for s in shares], [s.size for s in shares])
    )
    return integer // sizes * kept


RULES: Mapping[Rule, Callable[[int, list[Share]], int]] = {
    "sum": sum_of_shares,
    "product": product_of_shares,
}


class AttributeEdit(Record, frozen=True):
    """An attribute of a module whose integers shrink with channel groups.

    Attributes:
        module: path of the module; "" is the network itself.
        attribute: name of its instance attribute.
        value: what that holds in the dense network: an integer, or a tuple or list of them.
        per_unit: how much of it belongs to one unit of a group, by the group's name: one number for
            every integer in `value`.
        rule: how several groups act on one integer (a key of `RULES`).
    """

    module: Name
    attribute: Name
    value: Natural | tuple[Natural, ...]
    per_unit: Table[tuple[Natural, ...]]
    rule: Choice[Rule] = "sum"

    @property
    def name(self) -> str:
        """Path of the attribute."""
        return f"{self.module}.{self.attribute}" if self.module else self.attribute

    def check(self, sizes: Mapping[str, int]) -> None:
        """Refuse an edit that could give anything but integers from 0 to the dense ones.

        Args:
            sizes: units of every group in the dense network, by name.

        Raises:
            ValueError: it could, or names a group that is not there.
        """
        if unknown := self.per_unit.keys() - sizes.keys():
            raise ValueError(f"{self.name} follows group {min(unknown)}, which is not there")
        if any(len(each) != len(_several(self.value)) for each in self.per_unit.values()):
            raise ValueError(f"{self.name} lacks a share for every integer")
        for integer, shares in self._shares(sizes, sizes):
            whole = [s.per_unit * s.size for s in shares]
            exact = integer % max(1, math.prod(s.size for s in shares)) == 0
            is_product = exact and all(one == integer for one in whole)
            if not (is_product if self.rule == "product" else sum(whole) <= integer):
                raise ValueError(f"{self.name} is not made of its groups' units")

    def cut_value(self, sizes: Mapping[str, int], kept: Mapping[str, int]) -> Number:
        """Return what the attribute holds in the cut network.

        Args:
            sizes: units of every group in the dense network, by name.
            kept: units that stay of them.
        """
        rule = RULES[self.rule]
        found = tuple(rule(integer, shares) for integer, shares in self._shares(sizes, kept))
        return found if isinstance(self.value, tuple) else found[0]

    def without(self, groups: Collection[str]) -> AttributeEdit | None:
        """Return this edit as it is when some groups stay whole; None if it follows no other."""
        left = {name: each for name, each in self.per_unit.items() if name not in groups}
        return msgspec.structs.replace(self, per_unit=left) if left else None

    def _shares(
        self, sizes: Mapping[str, int], kept: Mapping[str, int]
    ) -> list[tuple[int, list[Share]]]:
        """Return every integer with the shares that groups have of it."""
        return [
            (
                integer,
                [
                    Share(each[place], sizes[group], kept[group])
                    for group, each in self.per_unit.items()
                    if each[place]
                ],
            )
            for place, integer in enumerate(_several(self.value))
        ]


def _several(value: Number) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
