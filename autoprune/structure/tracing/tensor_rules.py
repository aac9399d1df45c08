"""Rules for operators without weights: arithmetic, data movement, pooling, reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from autoprune.structure.tracing.call import (
    Call,
    Recorder,
    joined,
    only_along,
    statistics_over,
    unknown,
)
from autoprune.structure.tracing.labels import (
    CONSTANT,
    along,
    canonical,
    constant,
    shrink,
    varying,
)
from autoprune.structure.tracing.merging import merge
from autoprune.structure.tracing.mixing import averaged


def pointwise(trace: Recorder, call: Call) -> None:
    """Element-wise arithmetic: channels that are combined become one unit."""
    operands = [_unexpanded(tensor, trace.labels(tensor)) for tensor in call.inputs()]
    for out in call.outputs():
        trace.set_labels(out, merge(trace.atoms, operands, out.shape))


def _unexpanded(tensor: Tensor, labels: Tensor) -> Tensor:
    """Return labels with length 1 along dimensions in which a tensor repeats one value.

    `expand_as` means what broadcasting does: one value for many channels.
    """
    for d in range(tensor.dim()):
        if tensor.stride(d) == 0 and labels.stride(d) == 0 and tensor.shape[d] > 1:
            labels = labels.narrow(d, 0, 1)
    return labels


def identity(trace: Recorder, call: Call) -> None:
    """A copy, cast or alias, or a new tensor of the same shape."""
    trace.set_labels(call.out, trace.labels(call.args[0]))


def reshape(trace: Recorder, call: Call) -> None:
    """A view of the same entries in the same order."""
    trace.set_labels(call.out, canonical(trace.labels(call.args[0]).reshape(call.out.shape)))


def movement(trace: Recorder, call: Call) -> None:
    """Data movement: the same operator is applied to the labels."""
    # The other arguments say where entries go and are used as they are.
    data = tree_map_only(Tensor, lambda leaf: trace.labels(leaf).detach(), call.args[0])
    places, options = tree_map_only(Tensor, Tensor.cpu, (call.args[1:], dict(call.kwargs)))
    labels = call.func(data, *places, **options)
    for out, moved in zip(call.outputs(), _tensors(labels), strict=True):
        trace.set_labels(out, canonical(moved))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def pad(trace: Recorder, call: Call) -> None:
    """Padding: along channels it adds constant positions; along space it changes no labels."""
    labels = trace.labels(call.args[0])
    amounts, mode = call.args[1], call.arg(2, "mode", "constant")
    padded = {labels.dim() - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    across_channels = padded & (set(varying(labels)) or {1})
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
    """Concatenation along the channels, or of tokens, whose channels must then agree."""
    dim = call.arg(1, "dim", 0) % call.out.dim()
    pieces = [trace.labels(t) for t in call.args[0] if t.numel()]
    if not pieces:  # boxes, of which there are none on this sample
        trace.set_labels(call.out, constant(call.out.shape))
        return
    beside = [set(varying(piece)) - {dim} for piece in pieces]
    is_table = all(set(varying(piece)) == beside[0] | {dim} for piece in pieces)
    if any(beside) and not is_table:
        if any(dim in varying(piece) for piece in pieces):
            for piece in pieces:
                trace.atoms.block(piece, "concatenated along two dimensions")
        rows = [piece.narrow(dim, 0, 1) for piece in pieces]
        joined = merge(trace.atoms, rows, rows[0].shape)
        trace.set_labels(call.out, canonical(joined.expand(call.out.shape)))
    else:
        trace.set_labels(call.out, canonical(torch.cat(pieces, dim)))


def spatial(trace: Recorder, call: Call) -> None:
    """Pooling, resizing or reflection padding over all dimensions except batch and channels."""
    source = call.args[0]
    dim = max(source.dim() - _pooled_dims(call), 1) - 1
    reason = f"laid out across the positions that {call.name} pools"
    read = only_along(trace, source, dim, reason)
    for where in (tensor for tensor in call.inputs() if tensor is not source):
        trace.atoms.link(read, only_along(trace, where, dim, reason))
    for out in call.outputs():
        trace.set_labels(out, along(read, out.shape, dim))


def _pooled_dims(call: Call) -> int:
    digits = [int(c) for c in call.name if c.isdigit()]
    return digits[0] if digits else call.args[0].dim() - 2


def reduction(trace: Recorder, call: Call) -> None:
    """A reduction (sum, mean, …) over dimensions along which no channels may lie."""
    if call.argument("other") is not None:  # max(a, b)
        pointwise(trace, call)
        return
    source = call.args[0]
    labels, dims = trace.labels(source), _dims(call, source)
    if call.name in STATISTICS and len(dims) == 1 and dims <= set(varying(labels)):
        averaged(trace, call, *dims)
        return
    along = set(varying(labels))
    if along & dims and along - dims:
        labels = joined(trace.atoms, labels, along - dims)
    elif along & dims:
        trace.atoms.block(labels, _mixed_by(call))
        labels = constant(source.shape)
    short = labels
    for d in dims:
        short = short.narrow(d, 0, 1)
    for out in call.outputs():
        kept = [labels.shape[d] for d in range(source.dim()) if d not in dims]
        shape = tuple(kept) if out.dim() != source.dim() else tuple(out.shape)
        trace.set_labels(out, canonical(short.reshape(shape)))


# Reductions that can be taken over the channels that are left: parts of normalisations.
STATISTICS = frozenset({"mean", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"})


def _dims(call: Call, source: Tensor) -> set[int]:
    value = call.argument("dim")
    if value is None or value == []:
        return set(range(source.dim()))
    dims = [value] if isinstance(value, int) else value
    return {d % max(source.dim(), 1) for d in dims} & set(range(source.dim()))


# Operators that select entries; the others that combine entries add them up.
SELECTING = frozenset(
    {
        *("amax", "amin", "aminmax", "max", "min", "argmax", "argmin"),
        *("median", "nanmedian", "mode", "kthvalue", "any", "all"),
        *("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"),
        *("sort", "topk", "cummax", "cummin"),
    }
)


def _mixed_by(call: Call) -> str:
    verb = "compared with each other" if call.name in SELECTING else "summed over"
    return f"{verb} by {call.name}"


def along_dim(trace: Recorder, call: Call) -> None:
    """Softmax, cumulative sums, Fourier transforms, …: mixes the entries along some dimensions."""
    statistics_over(trace, call, _dims(call, call.args[0]), _mixed_by(call))


def triangle(trace: Recorder, call: Call) -> None:
    """A triangle of a matrix: no channels may lie along the last two dimensions."""
    statistics_over(trace, call, range(-2, 0), f"zeroed by their places in {call.name}")


def halves(trace: Recorder, call: Call) -> None:
    """A gated linear unit: combines each channel of the first half with one of the second half."""
    dim = call.argument("dim")
    pair = trace.labels(call.args[0]).chunk(2, dim)
    trace.set_labels(call.out, merge(trace.atoms, list(pair), call.out.shape))


def writing(trace: Recorder, call: Call) -> None:
    """Values written into a tensor: their channels must agree with those of the tensor."""
    if call.argument("accumulate") or call.argument("reduce"):
        unknown(trace, call)
        return
    names = [argument.name for argument in call.func._schema.arguments]
    base = trace.labels(call.args[0])
    places = [_place(trace, *pair) for pair in zip(names[1:], call.args[1:], strict=False)]
    options = {name: _place(trace, name, value) for name, value in call.kwargs.items()}
    written = call.func(base.clone(memory_format=torch.contiguous_format), *places, **options)
    trace.set_labels(call.out, merge(trace.atoms, [written, base], call.out.shape))


# Names of the written values in operator schemas.
VALUES = ("value", "values", "src", "source")


def _place(trace: Recorder, name: str, value: Any) -> Any:
    """Return an argument for writing labels: labels for values, anything else as it is."""
    if name not in VALUES:
        return tree_map_only(Tensor, Tensor.cpu, value)
    if not isinstance(value, Tensor):
        return CONSTANT
    labels = trace.labels(value).contiguous()
    # A single number written everywhere belongs to no channel.
    return torch.where(labels > 0, labels, CONSTANT) if labels.numel() == 1 else labels


def sampling(trace: Recorder, call: Call) -> None:
    """Interpolation at positions given by another tensor: channels pass through."""
    source, *places = call.inputs()
    for tensor in places:
        trace.atoms.block(trace.labels(tensor), f"places at which {call.name} reads")
    read = only_along(trace, source, 1, f"laid out across the positions that {call.name} reads")
    for out in call.outputs():
        trace.set_labels(out, along(read, out.shape, 1))


def patches(trace: Recorder, call: Call) -> None:
    """Patches as columns (`F.unfold`): every channel appears once per position in a patch."""
    reason = "laid out across the positions that patches are cut from"
    read = only_along(trace, call.args[0], -3, reason)
    rows = read.repeat_interleave(call.out.shape[-2] // len(read))
    trace.set_labels(call.out, along(rows, call.out.shape, call.out.dim() - 2))


def summed_patches(trace: Recorder, call: Call) -> None:
    """Patches summed into an image (`F.fold`): the rows of a channel are one unit."""
    read = only_along(trace, call.args[0], -2, "laid out across patches")
    channels = call.out.shape[-3]
    rows = read.reshape(channels, -1).unbind(1)
    one = merge(trace.atoms, list(rows), torch.Size([channels]))
    trace.set_labels(call.out, along(one, call.out.shape, call.out.dim() - 3))


def creation(trace: Recorder, call: Call) -> None:
    """A new constant tensor: positions that belong to no channel."""
    trace.set_labels(call.out, constant(call.out.shape, CONSTANT))


def verdict(trace: Recorder, call: Call) -> None:
    """A test of all entries (`all`, `any`): taken as a check that holds at any width."""
    if call.arg(1, "dim") is None:
        trace.set_labels(call.out, constant(call.out.shape))
    else:
        reduction(trace, call)
