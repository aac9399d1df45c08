"""What operators without weights do to channel labels: arithmetic, movement, pooling, sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.structure.call import Call, Recorder, only_along, statistics_over, unknown
from autoprune.structure.labels import (
    CONSTANT,
    FIXED,
    Atoms,
    along,
    canonical,
    constant,
    shrink,
    varying,
)


def pointwise(trace: Recorder, call: Call) -> None:
    """Element-wise arithmetic: channels that meet become one unit."""
    operands = [trace.labels(tensor) for tensor in call.inputs()]
    for out in call.outputs():
        trace.set_labels(out, merge(trace.atoms, operands, out.shape))


def merge(atoms: Atoms, operands: list[Tensor], shape: torch.Size) -> Tensor:
    """Return the labels of an element-wise result, linking what meets."""
    rank = len(shape)
    aligned = [
        one.reshape((1,) * (rank - one.dim()) + one.shape) for one in map(canonical, operands)
    ]
    moving = [set(varying(one)) for one in aligned]
    result = constant((1,) * rank, CONSTANT)
    for i, one in enumerate(aligned):
        others: set[int] = set().union(*(m for j, m in enumerate(moving) if j != i))
        repeated = {d for d in others if one.shape[d] == 1 and shape[d] > 1}
        if repeated:
            # One value serves many channels (a mask, a scalar): nothing to align, unless this
            # operand has channels of its own along another dimension.
            if moving[i]:
                for each in aligned:
                    atoms.block(each, "multiplied into an outer product")
            continue
        one = shrink(one)
        a, b = torch.broadcast_tensors(result, one)
        for fixed, met in ((a, b), (b, a)):
            atoms.block(met[(fixed == FIXED) & (met > 0)], "combined with a tensor of fixed size")
        atoms.link(a, b)
        result = torch.where(a > 0, a, torch.maximum(a, b))
    return canonical(result.expand(shape))


def identity(trace: Recorder, call: Call) -> None:
    """A copy, cast or alias."""
    trace.set_labels(call.out, trace.labels(call.args[0]))


def reshape(trace: Recorder, call: Call) -> None:
    """A view of the same entries in the same order."""
    trace.set_labels(call.out, canonical(trace.labels(call.args[0]).reshape(call.out.shape)))


def movement(trace: Recorder, call: Call) -> None:
    """Data movement: run the same operator on the labels; whole numbers are indices, not data."""

    def swap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return trace.labels(leaf) if leaf.is_floating_point() else leaf.cpu()

    if not all(out.is_floating_point() for out in call.outputs()):
        for out in call.outputs():
            trace.set_labels(out, constant(out.shape))
        return
    args, kwargs = tree_map(swap, (call.args, dict(call.kwargs)))
    labels = call.func(*args, **kwargs)
    for out, moved in zip(call.outputs(), _tensors(labels), strict=True):
        trace.set_labels(out, canonical(moved))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def pad(trace: Recorder, call: Call) -> None:
    """Padding: along channels it adds constant positions, along space nothing that matters."""
    labels = trace.labels(call.args[0])
    amounts, mode = call.args[1], call.arg(2, "mode", "constant")
    padded = {labels.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    across_channels = padded & (set(varying(labels)) | {1})
    if not across_channels:
        trace.set_labels(call.out, canonical(shrink(labels).expand(call.out.shape)))
    elif call.name == "pad" and mode != "constant":
        unknown(trace, call)
    else:
        grown = torch.constant_pad_nd(labels, amounts, CONSTANT)
        for d in set(range(labels.dim())) - across_channels:
            grown = grown.narrow(d, amounts[2 * (labels.dim() - 1 - d)] if d in padded else 0, 1)
        trace.set_labels(call.out, canonical(grown.expand(call.out.shape)))


def concatenation(trace: Recorder, call: Call) -> None:
    """Concatenation: along the channels, or of tokens whose channels must then agree."""
    dim = call.arg(1, "dim", 0) % call.out.dim()
    pieces = [trace.labels(t) for t in call.args[0] if t.numel()]
    if any(set(varying(piece)) - {dim} for piece in pieces):
        if any(dim in varying(piece) for piece in pieces):
            for piece in pieces:
                trace.atoms.block(piece, "concatenated along two dimensions")
        rows = [piece.narrow(dim, 0, 1) for piece in pieces]
        joined = merge(trace.atoms, rows, rows[0].shape)
        trace.set_labels(call.out, canonical(joined.expand(call.out.shape)))
    else:
        trace.set_labels(call.out, canonical(torch.cat(pieces, dim)))


def spatial(trace: Recorder, call: Call) -> None:
    """Pooling and resizing, over all dimensions but batch and channels."""
    source = call.args[0]
    dim = max(source.dim() - _pooled_dims(call), 1) - 1
    read = only_along(trace, source, dim, f"laid out across the positions that {call.name} pools")
    for out in call.outputs():
        trace.set_labels(out, along(read, out.shape, dim))


def _pooled_dims(call: Call) -> int:
    digits = [int(c) for c in call.name if c.isdigit()]
    return digits[0] if digits else call.args[0].dim() - 2


def reduction(trace: Recorder, call: Call) -> None:
    """A sum, mean, … over dimensions that must not tell channels apart."""
    source = call.args[0]
    labels, dims = trace.labels(source), _dims(call, source)
    if set(varying(labels)) & dims:
        trace.atoms.block(labels, f"summed over by {call.name}")
        labels = constant(source.shape)
    short = labels
    for d in dims:
        short = short.narrow(d, 0, 1)
    for out in call.outputs():
        kept = [labels.shape[d] for d in range(source.dim()) if d not in dims]
        shape = tuple(kept) if out.dim() != source.dim() else tuple(out.shape)
        trace.set_labels(out, canonical(short.reshape(shape)))


def _dims(call: Call, source: Tensor) -> set[int]:
    index = 2 if call.name in ("norm", "linalg_vector_norm") else 1
    value = call.arg(index, "dim")
    if isinstance(value, Tensor):  # max(a, b)
        return set()
    if value is None or value == []:
        return set(range(source.dim()))
    dims = [value] if isinstance(value, int) else value
    return {d % source.dim() for d in dims}


def along_dim(trace: Recorder, call: Call) -> None:
    """Softmax and its like: mixes one dimension."""
    dim = call.arg(2 if call.name == "topk" else 1, "dim", -1)
    dim = -1 if dim is None or isinstance(dim, bool) else dim
    statistics_over(trace, call, range(dim, dim + 1), f"compared with each other by {call.name}")


def creation(trace: Recorder, call: Call) -> None:
    """Zeros: positions that no channel feeds."""
    trace.set_labels(call.out, constant(call.out.shape, CONSTANT))
