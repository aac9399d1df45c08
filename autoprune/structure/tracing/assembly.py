"""From linked atoms to channel groups.

Connected components of atoms are units; units that own entries of the same dimensions, equally
many of each, form one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoprune.core.slices import Role, Slice
from autoprune.structure.groups import ChannelGroup, FrozenGroup, LayerSpec
from autoprune.structure.mixers import Mixer, Way
from autoprune.structure.tracing.labels import Atoms

T = TypeVar("T")

# Why a group of one unit is frozen.
TOGETHER = "its channels only go together"


def assemble(
    atoms: Atoms,
    layers: Sequence[LayerSpec],
    shapes: Mapping[str, tuple[int, ...]],
    mixers: Sequence[Mixer] = (),
) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...], npt.NDArray[np.int64]]:
    """Assemble the units and groups of a network, in every way in which channels can be cut.

    Args:
        atoms: entries of tensor dimensions, with their links and reasons to freeze.
        layers: their weights have the dimensions of producers and consumers.
        shapes: shapes of all parameters and buffers.
        mixers: operators without weights that combine channels.

    Returns:
        The groups, the frozen groups, and the index of each atom's group in every way of cutting
        (-1 for none), (ways, atoms).
    """
    groups: list[ChannelGroup] = []
    frozen: list[FrozenGroup] = []
    owners = []
    names = _Names()
    roles = _roles(layers, mixers)
    shapes = {**shapes, **{one.name: one.shape for one in mixers}}
    for way in atoms.ways:
        component = components(atoms, way)
        tables = {int(c) for one in atoms.tables for c in np.unique(component[one])}
        reasons: dict[int, str] = {}
        for labels, reason in atoms.blocked:
            for c in np.unique(component[labels]):
                reasons.setdefault(int(c), reason)
        axes = _axes(atoms, roles, shapes, component, reasons)
        made = _member(axes, "producer")
        for c in made - _member(axes, "consumer"):
            reasons.setdefault(c, "no layer reads it")
        # Heads and widths share what does not lie in tables: it is cut in one way.
        units = _units(axes, made if way != "widths" else made & tables)
        ways = {c: way for c in tables if way is not None}
        found, whole = _group(axes, units, reasons, ways, names)
        found = [_with_mixed(group, mixers) for group in found]
        owners.append(_owners(atoms, component, found, len(groups)))
        groups += found
        frozen += whole
    return tuple(groups), tuple(frozen), np.stack(owners)


@dataclass
class _Axis:
    """One tensor dimension with the component of each of its entries."""

    tensor: str
    dim: int
    role: Role
    components: npt.NDArray[np.int64]


@dataclass
class _Unit:
    """One component with the entries that it owns on each axis."""

    entries: dict[int, list[int]] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[tuple[int, int], ...]:
        return tuple((axis, len(positions)) for axis, positions in sorted(self.entries.items()))


class _Names:
    """Names groups by the weight that makes their channels first, and by the way of cutting."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    def of(self, weight: str, way: Way | None) -> str:
        name = weight.removesuffix(".weight") + ("" if way is None else f"#{way}")
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}#{self._taken[name]}"


def _owners(
    atoms: Atoms, component: npt.NDArray[np.int64], groups: Sequence[ChannelGroup], first: int
) -> npt.NDArray[np.int64]:
    owners = np.full(len(component), -1)
    for place, group in enumerate(groups, start=first):
        made = next(s for s in group.slices if s.role == "producer")
        start, _ = atoms.axes[made.tensor, made.dim]
        owners[component[start + made.positions[:, 0]]] = place
    return owners[component]


def components(atoms: Atoms, way: Way | None = None) -> npt.NDArray[np.int64]:
    """Return the number of every atom's unit in one way of cutting, shape (atoms,)."""
    links = [pairs for pairs, only in atoms.links if only in (None, way)]
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *links], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (atoms.count,) * 2)
    _, component = connected_components(graph, directed=False)
    return component.astype(np.int64)


def sharing(items: Iterable[tuple[AbstractSet[Any], T]]) -> list[list[T]]:
    """Return items, those together that share something.

    Args:
        items: what each has, and the item.
    """
    clusters: list[tuple[AbstractSet[Any], list[T]]] = []
    for own, item in items:
        together = [cluster for cluster in clusters if cluster[0] & own]
        clusters = [cluster for cluster in clusters if not cluster[0] & own]
        every = {*own, *(one for has, _ in together for one in has)}
        clusters.append((every, [one for _, others in together for one in others] + [item]))
    return [members for _, members in clusters]


def _roles(layers: Sequence[LayerSpec], mixers: Sequence[Mixer]) -> dict[tuple[str, int], Role]:
    roles: dict[tuple[str, int], Role] = {(one.name, 1): "consumer" for one in mixers if one.reads}
    for layer in layers:
        if layer.groups == 1 or layer.across:
            roles[layer.weight, layer.out_dim] = "producer"
            roles[layer.weight, layer.in_dim] = "consumer"
    return roles


def _with_mixed(group: ChannelGroup, mixers: Sequence[Mixer]) -> ChannelGroup:
    """Return a group with the entries of mixers' tables set apart from those of tensors."""
    names = {mixer.name for mixer in mixers}
    mixed = tuple(s for s in group.slices if s.tensor in names)
    own = tuple(s for s in group.slices if s.tensor not in names)
    return replace(group, slices=own, mixed=mixed)


def _axes(
    atoms: Atoms,
    roles: Mapping[tuple[str, int], Role],
    shapes: Mapping[str, tuple[int, ...]],
    component: npt.NDArray[np.int64],
    reasons: dict[int, str],
) -> list[_Axis]:
    axes = []
    sizes = np.bincount(component)
    for (tensor, dim), (start, length) in atoms.axes.items():
        own = component[start : start + length]
        if tensor not in shapes:
            continue
        if dim is None:
            shape = shapes[tensor]
            grid = own.reshape(shape)
            grid = _completed(grid, sizes[grid] > 1)
            moving = [d for d in range(len(shape)) if (grid != grid.take([0], d)).any()]
            if len(moving) != 1:
                tie = f"tied along several dimensions of {tensor}"
                for c in np.unique(own):
                    reasons.setdefault(int(c), tie if moving else TOGETHER)
                continue
            dim = moving[0]
            own = np.moveaxis(grid, dim, 0).reshape(shape[dim], -1)[:, 0]
        axes.append(_Axis(tensor, dim, roles.get((tensor, dim), "carried"), own))
    return axes


def _completed(grid: npt.NDArray[np.int64], used: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the components of a tensor's elements as if all were used as some are.

    Of a table of positions only those are read that the input has; the others lose the same
    channels.

    Args:
        grid: component of every element.
        used: whether other atoms belong to it.
    """
    for d in range(grid.ndim):
        line = np.where(used, grid, -1).max(tuple(set(range(grid.ndim)) - {d}), keepdims=True)
        if grid.ndim > 1 and (line >= 0).all() and (~used | (grid == line)).all():
            return np.broadcast_to(line, grid.shape)
    return grid


def _member(axes: Sequence[_Axis], role: Role) -> set[int]:
    return {int(c) for axis in axes if axis.role == role for c in np.unique(axis.components)}


def _units(axes: Sequence[_Axis], wanted: set[int]) -> dict[int, _Unit]:
    units: dict[int, _Unit] = {}
    for number, axis in enumerate(axes):
        for position, c in enumerate(axis.components.tolist()):
            if c in wanted:
                unit = units.setdefault(c, _Unit())
                unit.entries.setdefault(number, []).append(position)
    return units


def _group(
    axes: Sequence[_Axis],
    units: Mapping[int, _Unit],
    reasons: Mapping[int, str],
    ways: Mapping[int, Way],
    names: _Names,
) -> tuple[list[ChannelGroup], list[FrozenGroup]]:
    alike: dict[tuple[tuple[tuple[int, int], ...], str | None, Way | None], list[_Unit]] = {}
    for c, unit in units.items():
        alike.setdefault((unit.signature, reasons.get(c), ways.get(c)), []).append(unit)
    groups, frozen = [], []
    for (signature, reason, way), members in alike.items():
        first, channels = next(
            (axes[a].tensor, count) for a, count in signature if axes[a].role == "producer"
        )
        name = names.of(first, way)
        if reason is None and len(members) == 1:
            reason = TOGETHER if channels > 1 else "it has a single channel"
        if reason is not None:
            frozen.append(FrozenGroup(name, len(members), reason))
            continue
        slices = tuple(
            Slice(
                axes[a].tensor,
                axes[a].dim,
                axes[a].role,
                np.asarray([unit.entries[a] for unit in members], dtype=np.int64),
            )
            for a, _ in signature
        )
        groups.append(ChannelGroup(name, len(members), slices, way=way))
    return groups, frozen
