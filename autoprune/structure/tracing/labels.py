"""How channel labels pass through ATen operators.

While a network runs once on real data, every activation has a *label tensor* of the same shape
that says which channel each entry belongs to: 1, 2, … for atoms (numbered channels, see `Atoms`),
or one of

- `CONSTANT` (-1): an entry that belongs to no channel (zero padding);
- `FIXED` (0): entries whose size cannot change (the result of an operator that mixes channels).

Operators that move data are also run on the labels, so that views, concatenations, shuffles and
slices need no rules of their own. Dimensions along which labels do not vary are kept as expanded
dimensions (stride 0), so that labels take hardly any memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.structure.mixers import Way

FIXED = 0
CONSTANT = -1

WAYS: tuple[Way, ...] = ("heads", "widths")


@dataclass(frozen=True, eq=False)
class GroupedLayer:
    """A call of a convolution with groups.

    Attributes:
        weight: name of its weight.
        read: labels of its inputs, (groups, inputs of each).
        out: labels of its outputs, (groups, outputs of each).
    """

    weight: str
    read: Tensor
    out: Tensor


@dataclass
class Atoms:
    """Numbers of the entries of tensor dimensions, and the links that make some of them one unit.

    `axes` maps (tensor name, dimension) to (first atom, length); dimension None numbers every
    element of a tensor that takes part in element-wise arithmetic. A link may hold for one `Way` of
    cutting only; it holds for both if it has none. `tables` are the atoms that can be cut in both.
    `grouped` are the grouped convolutions whose links are not decided yet (see `grouped.settle`).
    """

    axes: dict[tuple[str, int | None], tuple[int, int]] = field(default_factory=dict)
    count: int = 1
    links: list[tuple[npt.NDArray[np.int64], Way | None]] = field(default_factory=list)
    blocked: list[tuple[npt.NDArray[np.int64], str]] = field(default_factory=list)
    tables: list[npt.NDArray[np.int64]] = field(default_factory=list)
    grouped: list[GroupedLayer] = field(default_factory=list)

    def copy(self) -> Atoms:
        """Return a copy to which more atoms and links can be added."""
        own = list(self.links), list(self.blocked), list(self.tables)
        return Atoms(dict(self.axes), self.count, *own)

    @property
    def ways(self) -> tuple[Way | None, ...]:
        """The ways of cutting; one without a name if there are no tables."""
        return WAYS if self.tables else (None,)

    def axis(self, tensor: str, dim: int | None, length: int) -> Tensor:
        """Return the atoms of one dimension, numbering them at the first call."""
        if (tensor, dim) not in self.axes:
            self.axes[tensor, dim] = (self.count, length)
            self.count += length
        start, _ = self.axes[tensor, dim]
        return torch.arange(start, start + length)

    def link(self, a: Tensor, b: Tensor, way: Way | None = None) -> None:
        """Make labels at equal positions one unit; the tensors are broadcast."""
        a, b = torch.broadcast_tensors(*shrink_together([a, b]))
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)])
        pairs = pairs[:, (pairs > 0).all(0) & (pairs[0] != pairs[1])]
        if pairs.shape[1]:
            # One number per pair is sorted far faster than columns of two.
            base = int(pairs.max()) + 1
            numbers = (pairs[0] * base + pairs[1]).unique()
            unique = torch.stack([numbers // base, numbers % base])
            self.links.append((unique.numpy(), way))

    def link_rows(self, table: Tensor, rows: Tensor | None, columns: Tensor | None) -> None:
        """Link channels that are laid out along two dimensions with their rows and columns.

        Where there is more than one row and column, rows are linked when whole rows (heads) are
        cut, and columns when a width is cut.

        Args:
            table: labels, (rows, columns).
            rows: labels of whole rows; None to link each row in itself only.
            columns: likewise.
        """
        several = min(table.shape) > 1
        if several:
            self.tables.append(table[table > 0].unique().numpy())
        if table.shape[0] > 1:
            own = table[:, :1] if rows is None else rows[:, None]
            self.link(table, own, "heads" if several else None)
        if table.shape[1] > 1:
            own = table[:1] if columns is None else columns[None]
            self.link(table, own, "widths" if several else None)

    def link_heads(self, rows: Tensor) -> None:
        """Let several tables have the same heads, if these are tables that can be cut both ways.

        Args:
            rows: labels of every head in all of them, (heads, entries).
        """
        if self.tables and np.isin(rows.numpy(), np.concatenate(self.tables)).all():
            self.link(rows, rows[:, :1], "heads")

    def block(self, labels: Tensor, reason: str) -> None:
        """Mark the channels among `labels` as channels that cannot be cut."""
        found = shrink(labels).unique()
        if (found := found[found > 0]).numel():
            self.blocked.append((found.numpy(), reason))

    def blocks(self, labels: Tensor) -> bool:
        """Say whether a channel among `labels` is marked already as one that cannot be cut."""
        found = shrink(labels).unique().numpy()
        return any(bool(np.isin(found, blocked).any()) for blocked, _ in self.blocked)

    def is_tensor(self, labels: Tensor) -> bool:
        """Say whether all channels among `labels` are elements of one parameter or buffer."""
        found = shrink(labels)
        found = found[found > 0]
        if not found.numel():
            return False
        low, high = int(found.min()), int(found.max())
        elements = (axis for (_, dim), axis in self.axes.items() if dim is None)
        return any(start <= low and high < start + length for start, length in elements)


def varying(labels: Tensor) -> tuple[int, ...]:
    """Return the dimensions along which labels vary (canonical labels only)."""
    return tuple(d for d in range(labels.dim()) if labels.shape[d] > 1 and labels.stride(d) != 0)


def shrink(labels: Tensor) -> Tensor:
    """Return the labels with every non-varying dimension cut to length 1."""
    for d in range(labels.dim()):
        if labels.stride(d) == 0 and labels.shape[d] > 1:
            labels = labels.narrow(d, 0, 1)
    return labels


def shrink_together(labels: Sequence[Tensor]) -> list[Tensor]:
    """Shrink several labels and add leading dimensions to give all the same rank."""
    rank = max(one.dim() for one in labels)
    return [shrink(one).reshape((1,) * (rank - one.dim()) + shrink(one).shape) for one in labels]


def canonical(labels: Tensor) -> Tensor:
    """Return equal labels in which every non-varying dimension is expanded."""
    shape = labels.shape
    if labels.numel() == 0:
        return labels
    labels = shrink(labels)
    for d in range(labels.dim()):
        if labels.shape[d] > 1 and bool((labels == labels.narrow(d, 0, 1)).all()):
            labels = labels.narrow(d, 0, 1)
    return labels.expand(shape)


def constant(shape: Sequence[int], label: int = FIXED) -> Tensor:
    """Return labels with the same value everywhere."""
    return torch.tensor(label).expand(tuple(shape))


def along(labels: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Return labels of the given shape that vary along one dimension only."""
    view = [1] * len(shape)
    view[dim] = labels.numel()
    return labels.reshape(view).expand(tuple(shape))


def overwritten(view: Tensor, before: Tensor, written: Tensor, labels: Tensor) -> Tensor:
    """Return a view's labels after an in-place write to another view of the same memory.

    Args:
        view: the view.
        before: its labels before the write.
        written: the tensor that was written to.
        labels: labels of that tensor after the write.
    """
    if view.element_size() != written.element_size():  # a complex tensor seen as real numbers
        return constant(view.shape)
    untouched = CONSTANT - 1
    memory = torch.full((view.untyped_storage().nbytes() // view.element_size(),), untouched)
    memory.as_strided(written.shape, written.stride(), written.storage_offset()).copy_(labels)
    seen = memory.as_strided(view.shape, view.stride(), view.storage_offset())
    return canonical(torch.where(seen == untouched, before, seen))
