"""Rules for operators with weights: layers and normalisations."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.errors import ModelError
from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.tracing.call import Call, Recorder, only_along, statistics_over, unknown
from autoprune.structure.tracing.grouped import link_whole
from autoprune.structure.tracing.labels import (
    FIXED,
    GroupedLayer,
    along,
    constant,
    shrink,
    varying,
)
from autoprune.structure.tracing.mixing import normalise


def layer(trace: Recorder, call: Call) -> None:
    """A linear layer or (transposed) convolution: reads its inputs, creates its output channels."""
    kind, groups = LAYER_KINDS[call.name], call.arg(6, "groups", 1)
    channel_dim, in_dim = kind.channel_dim, kind.in_dim
    source, weight = call.args[0], call.args[1]
    bias, atoms = call.arg(2, "bias"), trace.atoms
    counted = source if kind.is_transposed else call.out
    positions = counted.numel() // counted.shape[channel_dim]
    name = trace.parameter(weight)
    if name is not None and source.shape[channel_dim] and not source.numel():
        raise ModelError(
            f"layer {name} is given nothing, a tensor of shape {tuple(source.shape)}: give example "
            "inputs that reach every layer, e.g. images in which a detector finds boxes."
        )
    if name is None and _shared_filters(trace, call, groups, positions):
        return
    if groups == 1 and _mixes_positions(trace, call, positions):
        return
    is_lost = bias is not None and trace.name(bias) is None and not _is_known(trace.labels(bias))
    if name is None or is_lost:
        unknown(trace, call, trace.computed(call, call.out.shape[channel_dim]))
        trace.fixed_macs[call.name] += positions * weight.numel()
        return
    if kind.is_transposed and groups > 1:
        unknown(trace, call)
        trace.fixed_macs[call.name] += positions * weight.numel()
        return
    out = atoms.axis(name, 1 - in_dim, call.out.shape[channel_dim])
    read = only_along(trace, source, channel_dim, f"laid out across the rows that {name} reads")
    if groups == 1:
        atoms.link(atoms.axis(name, in_dim, len(read)), read)
    else:
        grouped = GroupedLayer(name, read.reshape(groups, -1), out.reshape(groups, -1))
        if len(read) > groups:
            atoms.grouped.append(grouped)
        else:
            link_whole(atoms, grouped)
    if bias is not None:
        bias_name = trace.name(bias)
        # One that is computed from parameters has theirs: queries, keys and values have their own.
        own = trace.labels(bias) if bias_name is None else atoms.axis(bias_name, 0, len(out))
        atoms.link(own, out)
    trace.set_labels(call.out, along(out, call.out.shape, channel_dim % call.out.dim()))
    trace.layer(call, positions, groups)


def _is_known(labels: Tensor) -> bool:
    return bool((shrink(labels) != FIXED).all())


def _shared_filters(trace: Recorder, call: Call, groups: int, positions: int) -> bool:
    """Let channels through a convolution of each by itself with a filter that is no parameter.

    A blur before a stride is one. False if this is another convolution.
    """
    source, weight = call.args[:2]
    kind = LAYER_KINDS[call.name]
    channel_dim = kind.channel_dim
    channels = source.shape[channel_dim]
    filters = trace.labels(weight)
    is_apart = groups == channels == call.out.shape[channel_dim] and not kind.is_transposed
    if not is_apart or call.arg(2, "bias") is not None or not _is_known(filters):
        return False
    reason = f"laid out across the channels that {call.name} filters"
    read = only_along(trace, source, channel_dim, reason)
    if 0 in varying(filters):
        trace.atoms.link(read, only_along(trace, weight, 0, reason))
    table = read[:, None]
    trace.follow(table)
    rows, _ = trace.mixer(call, [table], {}, macs=positions * weight.numel())
    trace.atoms.link_rows(table, rows, None)
    trace.set_labels(call.out, along(read, call.out.shape, channel_dim % call.out.dim()))
    return True


def _mixes_positions(trace: Recorder, call: Call, positions: int) -> bool:
    """Let channels through a linear layer that makes of all positions as many others.

    Its own inputs and outputs are positions, not channels, and stay whole. False if channels lie
    along its inputs, if it makes something else of them, or if they are those of the network's
    input, which may be positions themselves: they stay whole in any case.
    """
    source, weight = call.args[:2]
    labels, dim = trace.labels(source), LAYER_KINDS[call.name].channel_dim % source.dim()
    bias = call.arg(2, "bias")
    if LAYER_KINDS[call.name].rank or source.shape != call.out.shape:
        return False
    if dim in varying(labels) or not varying(labels):
        return False
    if trace.parameter(weight) is None or (bias is not None and trace.parameter(bias) is None):
        return False
    table = shrink(labels).reshape(-1, 1)
    if (table <= 0).any() or trace.atoms.blocks(table):
        return False
    rows, _ = trace.mixer(call, [table], {}, macs=positions * weight.numel())
    trace.atoms.link_rows(table, rows, None)
    trace.set_labels(call.out, labels)
    return True


def batch_norm(trace: Recorder, call: Call) -> None:
    """Batch or instance normalisation: per-channel parameters are cut with their channels."""
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
        # A normalised constant has the BN's own value at that position.
        read = torch.where(read > 0, read, own)
    path = names[-1].rpartition(".")[0] if names else ""
    statistics = [f"{path}.running_mean", f"{path}.running_var"]
    if call.name == "batch_norm" and names[-2:] == statistics:
        trace.batchnorm(source, path, call.out)
    trace.set_labels(call.out, along(read, call.out.shape, 1))


def layer_norm(trace: Recorder, call: Call) -> None:
    """Layer or RMS normalisation: channels along its one dimension are normalised together."""
    rank = len(call.argument("normalized_shape"))
    source = next(argument.name for argument in call.func._schema.arguments)
    arguments = {source: -1, "weight": 0, "bias": 0}
    if rank > 1 or not normalise(trace, call, -1, arguments):
        kind = "RMSNorm" if "rms" in call.name else "LayerNorm"
        statistics_over(trace, call, range(-rank, 0), f"normalised together by {kind}")


def group_norm(trace: Recorder, call: Call) -> None:
    """Group normalisation: channels that share their statistics are one unit, unless all do."""
    source, groups = call.args[0], call.argument("num_groups") or call.argument("group")
    reason = "normalised together by GroupNorm"
    labels = trace.labels(source)
    is_one = groups == 1 and call.name == "group_norm" and set(varying(labels)) == {1}
    if is_one and normalise(trace, call, 1, {"input": 1, "weight": 0, "bias": 0}):
        return
    rows = shrink(labels).reshape(-1)
    follows = set(varying(labels)) == {1} and groups > 1 and bool((rows > 0).all())
    if not (follows and trace.follow(rows.reshape(groups, -1))):
        statistics_over(trace, call, range(1, source.dim()), reason)
        return
    rows = rows.reshape(groups, -1)
    trace.atoms.link(rows, rows[:, :1])
    for key in ("weight", "bias"):
        name = trace.name(call.argument(key))
        if name is not None:
            trace.atoms.link(trace.atoms.axis(name, 0, source.shape[1]), rows.reshape(-1))
    for out in call.outputs():
        same = out.shape == source.shape
        trace.set_labels(out, labels if same else constant(out.shape))


def lookup(trace: Recorder, call: Call) -> None:
    """Rows of a table by their numbers (`nn.Embedding`): the table's columns are channels."""
    weight, indices = call.args[:2]
    name = trace.parameter(weight)
    if name is None or (trace.name(indices) is None and varying(trace.labels(indices))):
        unknown(trace, call)
        return
    columns = trace.atoms.axis(name, 1, weight.shape[1])
    trace.set_labels(call.out, along(columns, call.out.shape, call.out.dim() - 1))
