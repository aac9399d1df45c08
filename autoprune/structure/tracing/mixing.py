"""Rules for operators without weights that combine channels: normalisations, means, attention.

Such an operator sees fewer channels once some are cut. Its channels form a table (`groups.Mixer`):
a row per head, and in every row the columns that the operator combines. A cut takes whole rows, or
the same columns of every row: `labels.Way`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.structure.mixers import Way
from autoprune.structure.tracing.call import Call, Recorder, joined
from autoprune.structure.tracing.labels import CONSTANT, Atoms, canonical, constant, shrink, varying


@dataclass(frozen=True)
class Table:
    """Labels of the channels that an operator combines.

    Attributes:
        labels: (rows, columns); equal rows, of windows in the batch, appear once.
        places: row of every entry along the dimensions in front of the columns, (entries,).
    """

    labels: Tensor
    places: Tensor

    @classmethod
    def of(cls, entries: Tensor) -> Table:
        """Return the table of labels (entries, columns)."""
        labels, places = entries.unique(dim=0, return_inverse=True)
        return cls(labels, places)


def normalise(trace: Recorder, call: Call, dim: int, arguments: Mapping[str, int]) -> bool:
    """Normalise the channels along one dimension together; return False if they lie elsewhere.

    Args:
        trace: the trace.
        call: the normalisation.
        dim: dimension of its first argument.
        arguments: as in `Mixer`; those besides the first are its weight and bias.
    """
    source = call.args[0]
    labels, dim = trace.labels(source), dim % source.dim()
    if dim not in varying(labels):
        return False
    table = _table_along(labels, dim)
    if (table.labels <= 0).any():
        return False
    columns = trace.mixer(call, [table.labels], arguments, out_dim=dim, rescales=True)[1]
    trace.atoms.link_rows(table.labels, None, columns)
    way: Way | None = "widths" if len(table.labels) > 1 else None
    own = [one for key in list(arguments)[1:] if (one := call.argument(key)) is not None]
    if not own:
        trace.follow(table.labels.T)  # the module's size is that of no tensor
    for tensor in own:
        name = trace.name(tensor)
        if name is None:
            trace.atoms.block(labels, f"scaled by a computed weight in {call.name}")
            continue
        trace.atoms.link(trace.atoms.axis(name, 0, len(columns)), columns, way)
    for out in call.outputs():
        trace.set_labels(out, labels if out.shape == labels.shape else constant(out.shape))
    return True


def averaged(trace: Recorder, call: Call, dim: int) -> None:
    """A mean or variance of the channels along one dimension: one value for every row."""
    labels = trace.labels(call.args[0])
    table = _table_along(labels, dim)
    rows, columns = trace.mixer(call, [table.labels], {"self": dim}, rescales=True)
    trace.atoms.link_rows(table.labels, rows, columns)
    short = shrink(labels).narrow(dim, 0, 1)
    for out in call.outputs():
        # One value for all channels fits any number of them.
        own = rows[table.places] if len(rows) > 1 else constant(short.shape, CONSTANT)
        kept = [labels.shape[d] for d in range(labels.dim()) if d != dim]
        shape = tuple(kept) if out.dim() != labels.dim() else tuple(out.shape)
        own = own.reshape(short.shape)
        own = own.squeeze(dim) if out.dim() != labels.dim() else own
        trace.set_labels(out, own.expand(shape))


def _table_along(labels: Tensor, dim: int) -> Table:
    short = shrink(labels)
    return Table.of(short.movedim(dim, -1).reshape(-1, short.shape[dim]))


def matrix_product(trace: Recorder, call: Call, macs: int) -> bool:
    """A product of batches of matrices; return False if its channels cannot be followed."""
    first, second = (trace.labels(tensor) for tensor in call.args[:2])
    if not any(map(varying, (first, second))):
        return False
    first, second = (
        _without_positions(trace.atoms, first, 2),
        _without_positions(trace.atoms, second, 1),
    )
    if _is_summed(first, second):
        return _summed(trace, call, (first, second.mT), macs)
    if _is_outer(first, second):
        rows = _contract(trace, call, (first[:, :, 0], second[:, 0]), macs, {})
        if rows is None:
            return False
        # Every channel meets every other one: only whole heads can go.
        trace.atoms.link(first[:, :, 0], first[:1, :1, 0], "widths")
        trace.set_labels(call.out, rows[:, None, None].expand(call.out.shape))
        return True
    for weights, values in ((first, second), (second.mT, first.mT)):
        if _is_mixed(weights, values):
            _average(trace, call, weights[:, 0, 0], values[:, 0], macs)
            out = values[:, :1].expand(-1, weights.shape[1], -1)
            trace.set_labels(call.out, out if values is second else out.mT)
            return True
    return False


def _summed(trace: Recorder, call: Call, pair: tuple[Tensor, Tensor], macs: int) -> bool:
    """Follow a product that sums over channels; labels are (batch, positions, channels)."""
    first, second = pair
    # Heads are batches, or rows that are all multiplied with one table of positions.
    by_row = 1 in varying(first)
    first = shrink(first) if by_row else first[:, :1]
    second = second[:1, :1].expand_as(first) if by_row else second[:, :1]
    arguments = dict(zip(_names(call), (-1, -2), strict=False))
    flat = first.flatten(0, 1), second.flatten(0, 1)
    rows = _contract(trace, call, flat, macs, arguments)
    if rows is None:
        return False
    trace.set_labels(call.out, rows.reshape(*first.shape[:2], 1).expand(call.out.shape))
    return True


def _without_positions(atoms: Atoms, factor: Tensor, summed: int) -> Tensor:
    """Return the labels of a factor, of a table of positions those along the summed dimension.

    A parameter with a value for every position and every channel (relative positions that queries
    are multiplied with) loses channels, and keeps its positions.
    """
    dims = set(varying(factor))
    is_table = summed in dims and len(dims) > 1 and atoms.is_tensor(factor)
    return joined(atoms, factor, {summed}) if is_table else factor


def _names(call: Call) -> list[str]:
    return [argument.name for argument in call.func._schema.arguments]


def _is_summed(first: Tensor, second: Tensor) -> bool:
    """Say whether channels lie along the summed dimension of a product, and not beside it.

    Heads may lie along the rows of the first factor if the second one has none.
    """
    a, b = set(varying(first)), set(varying(second))
    by_row = 2 in a and b == {1}
    return by_row or (a <= {0, 2} and b <= {0, 1} and (2 in a or 1 in b))


def _is_outer(first: Tensor, second: Tensor) -> bool:
    """Say whether in every head each channel is multiplied with each: attention between them."""
    is_each = varying(first) == (0, 1) and varying(second) == (0, 2)
    return is_each and first.shape[1] == second.shape[2]


def _is_mixed(weights: Tensor, values: Tensor) -> bool:
    """Say whether channels lie along the columns of the second matrix, and not along the sum."""
    return set(varying(weights)) <= {0} and set(varying(values)) <= {0, 2}


def _contract(
    trace: Recorder,
    call: Call,
    pair: tuple[Tensor, Tensor],
    macs: int,
    arguments: Mapping[str, int],
    rescales: bool = False,
) -> Tensor | None:
    """Link the channels that are multiplied and summed; return the labels of the heads, (entries,).

    Args:
        trace: the trace.
        call: the product.
        pair: labels of both factors, (entries, channels).
        macs: MACs of the product.
        arguments: as in `Mixer`.
        rescales: likewise.
    """
    table = Table.of(torch.cat(pair, 1))
    halves = table.labels.chunk(2, 1)
    if (table.labels <= 0).any():
        return None
    rows, columns = trace.mixer(call, halves, arguments, macs=macs, rescales=rescales)
    for half in halves:
        if trace.atoms.is_tensor(half) and torch.equal(half, half[:1].expand_as(half)):
            trace.atoms.link_rows(half[:1], None, columns)  # all heads share it
        else:
            trace.atoms.link_rows(half, rows, columns)
    return rows[table.places] if len(rows) > 1 else constant((len(pair[0]),))


def _average(trace: Recorder, call: Call, heads: Tensor, values: Tensor, macs: int) -> None:
    """Link the channels of values with the heads whose weights average them.

    Args:
        trace: the trace.
        call: the product.
        heads: labels of the weights, (batch,).
        values: labels of the values, (batch, channels).
        macs: MACs of the product.
    """
    table = Table.of(values if 1 in varying(values) else values[:, :1])
    rows, columns = trace.mixer(call, [table.labels], {}, macs=macs)
    trace.atoms.link_rows(table.labels, rows, columns)
    if len(rows) > 1:
        trace.atoms.link(rows[table.places], heads)


def attention(trace: Recorder, call: Call, macs: tuple[int, int]) -> bool:
    """Fused attention: products of queries and keys weigh values; False if not followed.

    Args:
        trace: the trace.
        call: the operator.
        macs: MACs of the first and of the second product.
    """
    query, key, value = call.args[:3]
    batch = query.shape[:-2]
    shaped = []
    for tensor in (query, key, value):
        labels = trace.labels(tensor)
        if labels.dim() > 2 and labels.shape[-3] != batch[-1]:  # grouped queries
            labels = labels.repeat_interleave(batch[-1] // labels.shape[-3], -3)
        shaped.append(canonical(labels.expand(*batch, *labels.shape[-2:]).flatten(0, -3)))
    if any(1 in varying(labels) for labels in shaped) or not all(map(varying, shaped)):
        return False
    names = dict(zip(_names(call)[:2], (-1, -1), strict=True))
    rescales = call.argument("scale") is None
    pair = shaped[0][:, 0], shaped[1][:, 0]
    heads = _contract(trace, call, pair, macs[0], names, rescales)
    if heads is None:
        return False
    _average(trace, call, heads, shaped[2][:, 0], macs[1])
    mask = call.argument("attn_mask")
    if mask is not None:
        trace.atoms.link(trace.labels(mask), heads.reshape(*batch, 1, 1))
    out = next(call.outputs())
    trace.set_labels(out, shaped[2][:, :1].expand(-1, query.shape[-2], -1).reshape(out.shape))
    return True
