"""What each ATen operator does to channel labels: one small rule per family, in one table.

An operator without a rule is decomposed into smaller ones; if it cannot be, it is taken to mix
everything, and the channels that enter it stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

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


@dataclass(frozen=True)
class Call:
    """One operator call: `name` without namespace, overload and in-place underscore."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """Return a positional or keyword argument."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def inputs(self) -> Iterator[Tensor]:
        """Yield every tensor argument."""
        leaves = tree_leaves([list(self.args), dict(self.kwargs)])
        return (leaf for leaf in leaves if isinstance(leaf, Tensor))

    def outputs(self) -> Iterator[Tensor]:
        """Yield every tensor result."""
        return (leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor))


class Recorder(Protocol):
    """What a rule may ask of the trace and tell it."""

    atoms: Atoms
    fixed_macs: Counter[str]

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor."""

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Give a tensor its labels."""

    def name(self, tensor: Tensor | None) -> str | None:
        """Return the name of a parameter or buffer, None for anything else."""

    def layer(self, call: Call, in_dim: int, positions: int, groups: int) -> None:
        """Record a call of a layer with a weight."""

    def batchnorm(self, source: Tensor, path: str, out: Tensor) -> None:
        """Record that a BN with running statistics reads a tensor."""


Rule = Callable[[Recorder, Call], None]

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
IDENTITIES = {"clone", "contiguous", "detach", "alias", "to", "_to_copy", "lift_fresh", "type_as"}
RESHAPES = {
    *("view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten"),
    *("squeeze", "unsqueeze"),
}
MOVEMENTS = {
    *("permute", "transpose", "t", "swapaxes", "movedim"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split"),
    *("expand", "expand_as", "repeat", "tile", "roll", "flip", "index_select", "index"),
    *("stack", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
}
SPATIAL = (
    *("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool"),
    *("upsample_", "_upsample_", "reflection_pad", "replication_pad"),
)
REDUCTIONS = {
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "norm",
    "linalg_vector_norm",
}
ALONG_DIM = {
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
    "cumsum",
    "sort",
    "topk",
    "argmax",
}
CREATIONS = {"zeros", "new_zeros", "zeros_like"}


def find_rule(name: str, func: Any) -> Rule | None:
    """Return the rule for an operator, None if it should be decomposed."""
    if name in RULES:
        return RULES[name]
    if name.startswith(SPATIAL):
        return spatial
    return pointwise if torch.Tag.pointwise in func.tags else None


def only_along(trace: Recorder, tensor: Tensor, dim: int, reason: str) -> Tensor:
    """Return the labels along one dimension; channels laid out otherwise are blocked."""
    labels = trace.labels(tensor)
    dim %= tensor.dim()
    if set(varying(labels)) - {dim}:
        trace.atoms.block(labels, reason)
        return constant((tensor.shape[dim],))
    short = shrink(labels)
    return short.reshape(-1).expand(tensor.shape[dim])


def convolution(trace: Recorder, call: Call) -> None:
    """A (grouped) convolution: reads its input channels, makes its output channels."""
    _contraction(
        trace, call, channel_dim=-(call.args[1].dim() - 1), groups=call.arg(6, "groups", 1)
    )


def transposed_convolution(trace: Recorder, call: Call) -> None:
    """A transposed convolution: its weight is (in, out / groups, …)."""
    groups = call.arg(6, "groups", 1)
    _contraction(trace, call, -(call.args[1].dim() - 1), groups, transposed=True)


def linear(trace: Recorder, call: Call) -> None:
    """A linear layer over the last dimension."""
    _contraction(trace, call, channel_dim=-1, groups=1)


def _contraction(
    trace: Recorder, call: Call, channel_dim: int, groups: int, transposed: bool = False
) -> None:
    source, weight = call.args[0], call.args[1]
    bias, atoms = call.arg(2, "bias"), trace.atoms
    counted = source if transposed else call.out
    positions = counted.numel() // counted.shape[channel_dim]
    name = trace.name(weight) if isinstance(weight, nn.Parameter) else None
    is_computed = bias is not None and trace.name(bias) is None
    if name is None or is_computed or (transposed and groups > 1):
        unknown(trace, call)
        trace.fixed_macs[call.name] += positions * weight.numel()
        return
    in_dim = 0 if transposed else 1
    out = atoms.axis(name, 1 - in_dim, call.out.shape[channel_dim])
    read = only_along(trace, source, channel_dim, f"laid out across the rows that {name} reads")
    if groups == 1:
        atoms.link(atoms.axis(name, in_dim, len(read)), read)
    else:
        _link_groups(atoms, read.reshape(groups, -1), out.reshape(groups, -1))
    if bias is not None:
        bias_name = trace.name(bias)
        assert bias_name is not None
        atoms.link(atoms.axis(bias_name, 0, len(out)), out)
    trace.set_labels(call.out, along(out, call.out.shape, channel_dim % call.out.dim()))
    trace.layer(call, in_dim, positions, groups)


def _link_groups(atoms: Atoms, read: Tensor, out: Tensor) -> None:
    """Make one unit of every convolution group: all its inputs and all its outputs."""
    atoms.link(out, out[:, :1])
    atoms.link(read, out[:, :1])
    partly_fed = (read <= 0).any(1)
    atoms.block(out[partly_fed], "a convolution group reads positions that no channel feeds")


def batch_norm(trace: Recorder, call: Call) -> None:
    """Batch or instance normalisation: per-channel parameters go along."""
    source, atoms = call.args[0], trace.atoms
    names = [
        name
        for i, key in enumerate(("weight", "bias", "running_mean", "running_var"), start=1)
        if (tensor := call.arg(i, key)) is not None and (name := trace.name(tensor))
    ]
    read = only_along(trace, source, 1, "normalised over another dimension than the channels")
    for name in names:
        own = atoms.axis(name, 0, len(read))
        atoms.link(own, read)
        # A constant that is normalised takes the BN's own value at that position.
        read = torch.where(read > 0, read, own)
    path = names[-1].rpartition(".")[0] if names else ""
    statistics = [f"{path}.running_mean", f"{path}.running_var"]
    if call.name == "batch_norm" and names[-2:] == statistics:
        trace.batchnorm(source, path, call.out)
    trace.set_labels(call.out, along(read, call.out.shape, 1))


def layer_norm(trace: Recorder, call: Call) -> None:
    """Layer normalisation: its statistics change when a channel goes."""
    rank = len(call.args[1])
    _statistics_over(trace, call, range(-rank, 0), "normalised together by LayerNorm")


def group_norm(trace: Recorder, call: Call) -> None:
    """Group normalisation."""
    _statistics_over(trace, call, range(1, call.args[0].dim()), "normalised together by GroupNorm")


def _statistics_over(trace: Recorder, call: Call, dims: range, reason: str) -> None:
    labels = trace.labels(call.args[0])
    if set(varying(labels)) & {d % labels.dim() for d in dims}:
        trace.atoms.block(labels, reason)
    for out in call.outputs():
        trace.set_labels(out, labels if out.shape == labels.shape else constant(out.shape))


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
    _statistics_over(trace, call, range(dim, dim + 1), f"compared with each other by {call.name}")


def creation(trace: Recorder, call: Call) -> None:
    """Zeros: positions that no channel feeds."""
    trace.set_labels(call.out, constant(call.out.shape, CONSTANT))


def unknown(trace: Recorder, call: Call) -> None:
    """Anything else: what enters cannot be cut, what leaves has a fixed size."""
    for tensor in call.inputs():
        if trace.name(tensor) is None:
            trace.atoms.block(trace.labels(tensor), f"used by {call.name}, which needs its size")
    for out in call.outputs():
        trace.set_labels(out, constant(out.shape))


RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(TRANSPOSED, transposed_convolution),
    **dict.fromkeys(IDENTITIES, identity),
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(ALONG_DIM, along_dim),
    **dict.fromkeys(CREATIONS, creation),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "linear": linear,
    "_prelu_kernel": pointwise,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
}
