"""Numbers on modules that may follow the widths of groups, and the edits that this makes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from autoprune.core.edits import AttributeEdit, Rule
from autoprune.structure.attributes import number_of
from autoprune.structure.groups import ChannelGroup
from autoprune.structure.layers import has_sizes
from autoprune.structure.tracing.assembly import components
from autoprune.structure.tracing.labels import Atoms
from autoprune.structure.tracing.sizes import SizedCall, shares

# Attributes of more integers are taken for tables of indices (Levit's positions), unless they add
# up to what a call splits.
MOST_SIZES = 64

Chance: TypeAlias = tuple[str, str, str]
"""A module, its attribute, and a group whose width this attribute equals by chance."""


@dataclass(frozen=True, eq=False)
class Follower:
    """An integer on a module that is taken to be the length of a dimension.

    Attributes:
        module: path of the module.
        attribute: name of its attribute.
        place: place of the integer, 0 unless the attribute holds several.
        rows: labels of the dimension, (its length, labels of each of its entries).
        of_tables: whether it follows heads and widths only.
    """

    module: str
    attribute: str
    place: int
    rows: Tensor
    of_tables: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What is followed, apart from the dimension."""
        return self.module, self.attribute, self.place


def candidates(
    model: nn.Module, call: SizedCall, attributes: Callable[[nn.Module], Iterable[str]] = vars
) -> list[Follower]:
    """Return the integers on modules around a call that equal one of its sizes, or all of them.

    Sizes that occur several times are given to the integers of an attribute in turn, each first
    to another one.

    Args:
        model: the network.
        call: the call.
        attributes: names of the attributes of a module that count.
    """
    return [
        follower
        for path in _around(model, call)
        for attribute in attributes(model.get_submodule(path))
        for follower in _of_attribute(model, path, attribute, call)
    ]


def _of_attribute(
    model: nn.Module, path: str, attribute: str, call: SizedCall
) -> Iterator[Follower]:
    value = number_of(model.get_submodule(path), attribute)
    if value is None:
        return
    integers = value if isinstance(value, tuple) else (value,)
    if len(integers) > MOST_SIZES and sum(integers) != len(call.whole):
        return
    for place, integer in enumerate(integers):
        alike = [rows for rows in (*call.sizes, call.whole) if len(rows) == integer]
        if alike:
            turn = integers[:place].count(integer) % len(alike)
            for rows in alike[turn:] + alike[:turn]:
                yield Follower(path, attribute, place, rows)


def _around(model: nn.Module, call: SizedCall) -> Iterator[str]:
    """Yield the modules that run a call, innermost first, and those directly inside that one.

    Layers have the sizes of their tensors, which surgery brings in line.
    """
    running = list(dict.fromkeys(reversed(call.modules)))
    inside = [
        f"{path}.{name}".removeprefix(".")
        for path in running[:1]
        for name, _ in model.get_submodule(path).named_children()
    ]
    return (path for path in running + inside if not has_sizes(model.get_submodule(path)))


def edits_of(
    model: nn.Module,
    followers: Sequence[Follower],
    atoms: Atoms,
    owners: npt.NDArray[np.int64],
    groups: Sequence[ChannelGroup],
    chance: Container[Chance] = (),
) -> tuple[AttributeEdit, ...]:
    """Return the edits by which numbers follow the groups.

    Args:
        model: the network that has the numbers.
        followers: which number follows which dimension; of several for one number, the first of
            which groups have shares.
        atoms: numbered channels with their links.
        owners: index of the group of every atom in each way of cutting, -1 for none.
        groups: the channel groups.
        chance: numbers that do not follow a group.
    """
    if not followers:
        return ()
    sizes, units = [group.size for group in groups], [components(atoms, way) for way in atoms.ways]
    found: dict[tuple[str, str], dict[int, dict[int, int]]] = {}
    for one in followers:
        own = found.setdefault((one.module, one.attribute), {})
        if not own.get(one.place):
            own[one.place] = {
                group: share
                for unit, own_groups in zip(units, owners, strict=True)
                for group, share in shares(one.rows, unit, own_groups, sizes).items()
                if (groups[group].way or not one.of_tables)
                and (*one.key[:2], groups[group].name) not in chance
            }
    edits = []
    for (module, attribute), by_place in found.items():
        value = number_of(model.get_submodule(module), attribute)
        assert value is not None
        places = range(len(value) if isinstance(value, tuple) else 1)
        followed = sorted(set().union(*by_place.values()))
        per_unit = {
            groups[g].name: tuple(by_place.get(p, {}).get(g, 0) for p in places) for g in followed
        }
        if per_unit:
            ways = {groups[g].way for g in followed}
            rule: Rule = "product" if {"heads", "widths"} <= ways else "sum"
            edits.append(AttributeEdit(module, attribute, value, per_unit, rule))
    return tuple(edits)
