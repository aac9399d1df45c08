"""From linked atoms to channel groups.

Connected components of atoms are units; units that own entries of the same dimensions, equally
many of each, form one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from autoprune.core.slices import Role, Slice
from autoprune.structure.groups import ChannelGroup, FrozenGroup, LayerSpec
from autoprune.structure.tracing.labels import Atoms


def assemble(
    atoms: Atoms, layers: Sequence[LayerSpec], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...], npt.NDArray[np.int64]]:
    """Assemble the units and groups of a network.

    Args:
        atoms: entries of tensor dimensions, with their links and reasons to freeze.
        layers: their weights have the dimensions of producers and consumers.
        shapes: shapes of all parameters and buffers.

    Returns:
        The groups, the frozen groups, and the index of each atom's group (-1 for none).
    """
    component = components(atoms)
    reasons: dict[int, str] = {}
    for labels, reason in atoms.blocked:
        for c in np.unique(component[labels]):
            reasons.setdefault(int(c), reason)
    axes = _axes(atoms, layers, shapes, component, reasons)
    made = _member(axes, "producer")
    cuttable = made & _member(axes, "consumer")
    for c in made - cuttable:
        reasons.setdefault(c, "no layer reads it")
    units = _units(axes, made)
    groups, frozen = _group(axes, units, reasons)
    return groups, frozen, _owners(atoms, component, groups)


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


def _owners(
    atoms: Atoms, component: npt.NDArray[np.int64], groups: Sequence[ChannelGroup]
) -> npt.NDArray[np.int64]:
    owners = np.full(len(component), -1)
    for place, group in enumerate(groups):
        made = next(s for s in group.slices if s.role == "producer")
        start, _ = atoms.axes[made.tensor, made.dim]
        owners[component[start + made.positions[:, 0]]] = place
    return owners[component]


def components(atoms: Atoms) -> npt.NDArray[np.int64]:
    """Return the number of every atom's unit, shape (atoms,)."""
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *atoms.links], axis=1)
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), (atoms.count,) * 2)
    _, component = connected_components(graph, directed=False)
    return component.astype(np.int64)


def _axes(
    atoms: Atoms,
    layers: Sequence[LayerSpec],
    shapes: Mapping[str, tuple[int, ...]],
    component: npt.NDArray[np.int64],
    reasons: dict[int, str],
) -> list[_Axis]:
    roles: dict[tuple[str, int], Role] = {}
    for layer in layers:
        if layer.groups == 1:
            roles[layer.weight, layer.out_dim] = "producer"
            roles[layer.weight, layer.in_dim] = "consumer"
    axes = []
    for (tensor, dim), (start, length) in atoms.axes.items():
        own = component[start : start + length]
        if tensor not in shapes:
            continue
        if dim is None:
            shape = shapes[tensor]
            grid = own.reshape(shape)
            moving = [d for d in range(len(shape)) if (grid != grid.take([0], d)).any()]
            if len(moving) != 1:
                for c in np.unique(own):
                    reasons.setdefault(int(c), f"tied along several dimensions of {tensor}")
                continue
            dim = moving[0]
            own = np.moveaxis(grid, dim, 0).reshape(shape[dim], -1)[:, 0]
        axes.append(_Axis(tensor, dim, roles.get((tensor, dim), "carried"), own))
    return axes


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
    axes: Sequence[_Axis], units: Mapping[int, _Unit], reasons: Mapping[int, str]
) -> tuple[tuple[ChannelGroup, ...], tuple[FrozenGroup, ...]]:
    alike: dict[tuple[tuple[tuple[int, int], ...], str | None], list[_Unit]] = {}
    for c, unit in units.items():
        alike.setdefault((unit.signature, reasons.get(c)), []).append(unit)
    groups, frozen, taken = [], [], Counter[str]()
    for (signature, reason), members in alike.items():
        first = next(axes[a].tensor for a, _ in signature if axes[a].role == "producer")
        name = first.removesuffix(".weight")
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        if reason is None and len(members) == 1:
            reason = "it has a single unit"
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
        groups.append(ChannelGroup(name, len(members), slices))
    return tuple(groups), tuple(frozen)
