"""Sizes that a forward pass names: of views, of the pieces of a split, of normalisation groups.

Such a size may be computed from a shape, in which case it follows the width of a group by itself,
or come from a number on a module, which must then be changed with the width. And it may ask for
channels to go together: the pieces of `chunk(2)` stay equally wide, and so do the rows of a view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.core.view_sizes import InferredSize
from autoprune.structure.tracing.assembly import components
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.labels import Atoms, shrink, varying
from autoprune.structure.tracing.module_stack import NamedView

VIEWS = frozenset({"view", "_unsafe_view", "reshape", "unflatten"})
SPLITS = frozenset({"split", "split_with_sizes", "chunk", "unsafe_split", "narrow", "slice"})
SIZED = VIEWS | SPLITS | {"channel_shuffle"}
# Stands for the place of a dimension: all sizes of calls that one module makes in the same way.
ALIKE = -1
# Labels of a larger view are taken to be those of a spatial layout.
LARGEST_VIEW = 1_000_000


@dataclass(frozen=True, eq=False)
class SizedCall:
    """One operator call that names sizes of dimensions along which channels lie.

    Attributes:
        modules: paths of the modules that run it, outermost first.
        sizes: labels of every such dimension, (its length, labels of each of its entries).
        is_split: whether these are the pieces of one dimension, not dimensions of one tensor.
        inferable: the size of each dimension that may be inferred instead.
        width: labels of the channels that the running module reads, if the call names their number
            as its one size and none may be inferred, (that number, 1).
    """

    modules: tuple[str, ...]
    sizes: tuple[Tensor, ...]
    is_split: bool = False
    inferable: tuple[InferredSize, ...] = ()
    width: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """What calls of repeated blocks have in common."""
        return (self.is_split, *map(len, self.sizes))

    @property
    def whole(self) -> Tensor:
        """Labels of the dimension that is split or viewed, every channel an entry of its own."""
        return torch.cat(self.sizes) if self.is_split else self.sizes[0].reshape(-1, 1)

    @property
    def atoms(self) -> Tensor:
        """The channels among the labels, each once."""
        rows = self.sizes if self.width is None else (*self.sizes, self.width)
        found: Tensor = torch.cat([one.reshape(-1) for one in rows]).unique()
        return found[found > 0]


def sized_call(
    call: Call,
    before: Tensor,
    after: Tensor,
    modules: tuple[str, ...],
    view: NamedView | None = None,
    read: Sequence[Tensor] = (),
) -> SizedCall | None:
    """Return what an operator says about sizes; None if it says nothing about channels.

    Args:
        call: the operator call.
        before: labels of its first argument.
        after: labels of its first result.
        modules: paths of the modules that run it.
        view: the view in the code of these modules that it is; None if it is no such view.
        read: labels of the tensors that the innermost module was called with.
    """
    if call.name in VIEWS:
        labels = shrink(after)
        dims = varying(after) if labels.numel() <= LARGEST_VIEW else ()
        entries = tuple(_entries(labels, d) for d in dims)
        if view is None or not dims:
            return SizedCall(modules, entries) if dims else None
        own = [d for d in dims if d >= view.inferable]
        inferable = tuple(InferredSize(view.module, view.number, d) for d in own)
        is_width = len(dims) == 1 and not own and view.sizes[dims[0]] > 0
        width = _width(entries[0], read) if is_width else None
        return SizedCall(modules, entries, inferable=inferable, width=width)
    if call.name == "channel_shuffle" and set(varying(before)) == {1}:
        rows = shrink(before).reshape(call.argument("groups"), -1)
        return SizedCall(modules, (rows, rows.T))
    if call.name in SPLITS and before.dim():
        dim = (call.argument("dim") or 0) % before.dim()
        lengths = _lengths(call, dim, before.shape[dim])
        if dim in varying(before) and len(lengths) > 1:
            pieces = _entries(shrink(before), dim).split(lengths)
            return SizedCall(modules, tuple(pieces), is_split=True)
    return None


def _width(rows: Tensor, read: Sequence[Tensor]) -> Tensor | None:
    """Return the labels of other channels that a module reads, as many as there are rows."""
    for labels in read:
        dims = varying(labels)
        if len(dims) == 1 and labels.shape[dims[0]] == len(rows):
            found = shrink(labels).reshape(-1, 1)
            return None if torch.equal(found, rows[:, :1]) else found
    return None


def _entries(labels: Tensor, dim: int) -> Tensor:
    return labels.movedim(dim, 0).reshape(labels.shape[dim], -1)


def _lengths(call: Call, dim: int, whole: int) -> list[int]:
    """Return the lengths of the pieces of a dimension; a slice leaves what is before and behind."""
    lengths = [out.shape[dim] for out in call.outputs()]
    if len(lengths) != 1 or lengths[0] == whole or call.argument("step") not in (None, 1):
        return lengths
    start = (call.argument("start") or 0) % whole
    parts = (start, lengths[0], whole - start - lengths[0])
    return [length for length in parts if length]


def tied(atoms: Atoms, calls: Sequence[SizedCall], place: int | None) -> Atoms:
    """Return the atoms with the links by which the sizes of some calls stay consistent.

    Args:
        atoms: numbered channels; they are not changed.
        calls: calls in the order in which they run.
        place: which dimension of a view shrinks, from its end: all channels at one of its entries
            become one unit. Pieces of a split that are equally long stay so. None where the
            one size of each call is the width of what its module reads, `ALIKE` where a module's
            calls name the same sizes: channels at equal places become one unit.
    """
    found = atoms.copy()
    if place == ALIKE:
        _link_repeated(found, calls)
    for call in calls if place != ALIKE else ():
        if place is None:
            assert call.width is not None
            found.link(call.sizes[0][:, :1], call.width)
        elif not call.is_split:
            rows = call.sizes[max(len(call.sizes) - 1 - place, 0)]
            found.link(rows, rows[:, :1])
    unit = components(found)
    for call in calls:
        if call.is_split and len({len(rows) for rows in call.sizes}) == 1:
            first, *others = ([int(row[0]) for row in rows if row[0] > 0] for rows in call.sizes)
            for other in others:
                for a, b in _partners(unit, first, other):
                    found.link(torch.tensor([a]), torch.tensor([b]))
                    unit[unit == unit[b]] = unit[a]
    return found


def _link_repeated(atoms: Atoms, calls: Sequence[SizedCall]) -> None:
    """Make channels at equal places of the same calls one unit."""
    for first, *others in repeated(calls):
        for other in others:
            for rows, same in zip(first.sizes, other.sizes, strict=True):
                atoms.link(rows[:, :1], same[:, :1])


def repeated(calls: Sequence[SizedCall]) -> list[list[SizedCall]]:
    """Return calls of the same sizes that one module makes, where there are several."""
    alike: dict[tuple[tuple[str, ...], tuple[int, ...]], list[SizedCall]] = {}
    for call in calls:
        alike.setdefault((call.modules, call.shape), []).append(call)
    return [own for own in alike.values() if len(own) > 1]


def _partners(
    unit: npt.NDArray[np.int64], one: Sequence[int], other: Sequence[int]
) -> list[tuple[int, int]]:
    """Return channels whose units must be joined, so that two pieces have as much of every unit.

    A unit with more channels in one piece is joined with a unit that has as many more in the other,
    in the order of the channels; where that does not come out even, with several.

    Args:
        unit: unit of every atom.
        one: atoms of one piece.
        other: atoms of the other piece.
    """
    channel = {int(unit[atom]): atom for atom in reversed([*one, *other])}
    surplus = Counter(unit[one].tolist())
    surplus.subtract(unit[other].tolist())
    more, less = [u for u in surplus if surplus[u] > 0], [u for u in surplus if surplus[u] < 0]
    pairs = []
    for u in list(more):
        partner = next((v for v in less if surplus[v] == -surplus[u]), None)
        if partner is not None:
            pairs.append((u, partner))
            more.remove(u)
            less.remove(partner)
    total, joined = 0, None
    while more or less:
        side = less if total > 0 and less else more or less
        u = side.pop(0)
        total += surplus[u]
        if joined is not None:
            pairs.append((joined, u))
        joined = u if total else None
    return [(channel[u], channel[v]) for u, v in pairs]


def shares(
    rows: Tensor, unit: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], sizes: Sequence[int]
) -> dict[int, int]:
    """Return how many entries of a dimension belong to one unit of each group, by its index.

    Args:
        rows: labels of the dimension, (its length, labels of each of its entries).
        unit: unit of every atom.
        owners: index of the group of every atom, -1 for none.
        sizes: numbers of units of the groups.
    """
    whole = rows[(rows > 0).all(1)].numpy()
    whole = whole[(unit[whole] == unit[whole[:, :1]]).all(1)][:, 0]
    found = {}
    for group in set(owners[whole].tolist()) - {-1}:
        counts = np.unique(unit[whole[owners[whole] == group]], return_counts=True)[1]
        if len(counts) == sizes[group] and len(set(counts.tolist())) == 1:
            found[group] = int(counts[0])
    return found
