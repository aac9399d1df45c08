"""The prunable structure of a network, as plain immutable values.

A `ChannelGroup` has `size` units; unit `u` owns the entries `positions[u]` of one dimension of
every tensor in its `slices`. Removing a unit removes all of them at once. A unit is a channel, a
whole group of a grouped convolution, the same channel of all of its groups, or a channel with its
49 inputs of a flattened linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property

from autoprune.core.edits import AttributeEdit
from autoprune.core.policy import GroupPolicy, PruningPolicy, Widths, hash_shapes
from autoprune.core.slices import Slice
from autoprune.core.view_sizes import InferredSize
from autoprune.structure.branches import Branch
from autoprune.structure.forward_pass import Activation, Operator
from autoprune.structure.mixers import Mixer, Way


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channel dimensions that must shrink together: one decision.

    Attributes:
        name: name of the weight that makes the channels first.
        size: number of units.
        slices: entries of parameters and buffers that belong to each unit.
        mixed: entries of the mixers' tables (see `Mixer`).
        way: how it cuts tables of heads and widths; None for channels in no such table.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    mixed: tuple[Slice, ...] = ()
    way: Way | None = None

    @cached_property
    def producers(self) -> tuple[str, ...]:
        """Names of the weights whose outputs are these channels."""
        return tuple(s.tensor for s in self.slices if s.role == "producer")

    @cached_property
    def consumers(self) -> tuple[Slice, ...]:
        """Input dimensions of the layers that read these channels."""
        return tuple(s for s in self.slices if s.role == "consumer")


@dataclass(frozen=True)
class FrozenGroup:
    """A group that cannot be cut, with the reason."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class LayerSpec:
    """One layer with a weight, as it runs on one sample.

    Attributes:
        name: module path, e.g. "layer1.0.conv1"; the weight's name where that is no `weight`.
        kind: ATen operator, e.g. "conv2d" or "linear".
        weight: name of the weight tensor.
        bias: name of the bias tensor, or None.
        batchnorm: module path of a BN that alone reads the output, or None.
        in_dim: dimension of the weight that holds the inputs (1, or 0 if transposed).
        positions: output positions (pixels or tokens; input pixels if transposed), summed over
            the layer's calls; MACs = positions x weight.numel().
        calls: number of times that the layer runs in one forward pass.
        kernel_size, stride, padding, dilation, groups: as in `torch.nn.Conv2d`.
        input_shape, output_shape: shapes at its first call, without the batch.
        takes_bias: whether it adds its own bias at every call: a convolution or linear module of
            PyTorch, with a bias or not, or a product with two parameters that nothing else reads.
        refittable: whether its weight can be refitted by least squares: a layer that `takes_bias`,
            or has a BN behind it, with one dense weight.
        number: number of the operator of its first call (see `operators.OperatorMode`).
        shortcut: number of the operator whose result is added to this layer's output (after its
            BN), if that runs before the layer; else None.
        clamp: bounds of the clamp that alone reads this layer's output (after BN and shortcut),
            (0, inf) for a ReLU; None if the output is read otherwise.
        across: whether every one of its groups is cut at the same places (see `grouped`), so that
            it keeps its groups; otherwise groups go as a whole.
    """

    name: str
    kind: str
    weight: str
    bias: str | None
    batchnorm: str | None
    in_dim: int
    positions: int
    calls: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    takes_bias: bool
    refittable: bool
    number: int
    shortcut: int | None
    clamp: tuple[float, float] | None
    across: bool = False

    @property
    def is_module(self) -> bool:
        """Whether `name` is a module with this weight, not the parameter of a product."""
        return self.weight == f"{self.name}.weight"

    @property
    def out_dim(self) -> int:
        """Dimension of the weight that holds the outputs."""
        return 1 - self.in_dim

    @property
    def is_transposed(self) -> bool:
        """Whether every input position adds to several outputs, not the other way round."""
        return self.in_dim == 0

    @property
    def space(self) -> tuple[int, ...]:
        """Shape of the positions (pixels or tokens) at which a call multiplies its weight."""
        shape = self.input_shape if self.is_transposed else self.output_shape
        return shape[1:] if self.kernel_size else shape[:-1]

    @property
    def runs(self) -> float:
        """Number of inputs per sample and call: frames or windows folded into the batch."""
        return self.positions / (self.calls * math.prod(self.space))

    @property
    def absorbs_mean(self) -> bool:
        """Whether it has a bias or BN that can absorb a constant shift of the output."""
        return self.bias is not None or self.batchnorm is not None

    def with_untouched(self, untouched: AbstractSet[str]) -> LayerSpec:
        """Return this layer as it is when some tensors keep their values.

        A BN whose statistics keep their values absorbs nothing and hides what follows it.
        """
        layer = self
        if f"{self.batchnorm}.running_mean" in untouched:
            layer = replace(self, batchnorm=None, shortcut=None, clamp=None)
        is_free = not untouched & {self.weight, self.bias}
        shifts = layer.takes_bias or layer.batchnorm is not None
        return replace(layer, refittable=self.refittable and is_free and shifts)


@dataclass(frozen=True)
class TrainingOnly:
    """Layers that only training mode runs, such as auxiliary heads.

    Attributes:
        layers: layers that run in training mode only. Their inputs shrink with what they read, as
            carried slices; they are neither measured nor refitted, and their MACs do not count.
        failure: error of the forward pass in training mode; None if it succeeds.
        unseen: weights that no forward pass has read; what they would read is not known.
        wrong: groups that can be cut in evaluation but not in training mode, with the reasons.
    """

    layers: tuple[LayerSpec, ...] = ()
    failure: str | None = None
    unseen: tuple[str, ...] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """Yield notes for users who train the pruned network further."""
        if self.layers:
            names = ", ".join(layer.name for layer in self.layers)
            yield f"layers that run in training mode only, cut along with what they read: {names}"
        if self.unseen:
            names = ", ".join(name.removesuffix(".weight") for name in self.unseen)
            failed = f" (it fails in training mode: {self.failure})" if self.failure else ""
            yield (
                f"no forward pass runs these layers{failed}; what they read is not known, and they "
                f"are left as they are, even if that is cut: {names}"
            )
        for group, reason in self.wrong.items():
            yield f"once group {group} is cut, the network may not run in training mode: {reason}"


@dataclass(frozen=True, eq=False)
class Structure:
    """Channels of a network: its groups, layers, activations and operators.

    Attributes:
        groups: groups that can be pruned, in network order.
        frozen: groups that cannot, with the reasons.
        layers: layers with weights, in network order.
        fixed_macs: MACs per sample of operators that are not layers and that no width changes
            (recurrent networks), by operator.
        uncounted: operators with weights whose MACs are unknown and therefore not counted.
        shapes: shape of every parameter and buffer.
        parameters: names of the parameters among `shapes`, each tied tensor once.
        itemsizes: bytes per element of every tensor in `shapes`.
        activations: activations of one sample, the network's inputs first.
        operators: operators in the order in which they run; the last one returns the outputs.
        mixers: operators without weights that combine channels, in network order.
        training: layers that run in training mode only.
        edits: attributes of modules that follow the widths of groups.
        inferred: sizes of views that networks cut from this one infer.
        untouched: names of tensors that keep their values: they are neither refitted nor trained.
        branches: residual branches that can go, in network order, if asked for (`with_branches`).
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenGroup, ...]
    layers: tuple[LayerSpec, ...]
    fixed_macs: Mapping[str, int]
    uncounted: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    itemsizes: Mapping[str, int]
    activations: tuple[Activation, ...]
    operators: tuple[Operator, ...]
    mixers: tuple[Mixer, ...] = ()
    training: TrainingOnly = TrainingOnly()
    edits: tuple[AttributeEdit, ...] = ()
    inferred: tuple[InferredSize, ...] = ()
    untouched: frozenset[str] = frozenset()
    branches: tuple[Branch, ...] = ()

    @cached_property
    def dense_widths(self) -> Widths:
        """Widths of the dense network."""
        return tuple(group.size for group in self.groups)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Index in `groups` of every group name."""
        return {group.name: i for i, group in enumerate(self.groups)}

    @cached_property
    def layer_of_weight(self) -> Mapping[str, LayerSpec]:
        """Layer of every weight name."""
        return {layer.weight: layer for layer in self.layers}

    @cached_property
    def feeds(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the groups that feed each consumer, by the name of its weight."""
        feeds: dict[str, list[int]] = {}
        for i, group in enumerate(self.groups):
            for consumer in group.consumers:
                feeds.setdefault(consumer.tensor, []).append(i)
        return {weight: tuple(indices) for weight, indices in feeds.items()}

    def rescaled_by(self, group: ChannelGroup) -> tuple[str, ...]:
        """Return the normalisations and attention that are others once a group is cut (`Mixer`)."""
        seen = {s.tensor for s in group.mixed if s.dim == 1}
        found = (one for one in self.mixers if one.rescales and one.name in seen)
        return tuple(dict.fromkeys(one.operator for one in found))

    def gone(self, widths: Sequence[int]) -> tuple[Branch, ...]:
        """Return the branches that are gone at some widths."""
        return tuple(one for one in self.branches if not widths[self.index[one.group]])

    def left(self, widths: Widths) -> Widths:
        """Return the widths of what is really left: a branch that is gone has no units inside."""
        inside = {name for branch in self.gone(widths) for name in branch.groups}
        pairs = zip(self.index, widths, strict=True)
        return tuple(0 if name in inside else width for name, width in pairs)

    def policy(self, kept: Sequence[Sequence[int]]) -> PruningPolicy:
        """Return the policy that keeps some units of each group; none where a branch is gone."""
        widths = tuple(len(units) for units in kept)
        gone, left = self.gone(widths), self.left(widths)
        groups = {
            group.name: GroupPolicy(group.size, tuple(sorted(units)) if width else (), group.slices)
            for group, units, width in zip(self.groups, kept, left, strict=True)
        }
        # Buffers are left out: a forward pass may have created some that a new network lacks.
        shapes_hash = hash_shapes({name: self.shapes[name] for name in self.parameters})
        bypasses = tuple(bypass for branch in gone for bypass in branch.bypasses)
        return PruningPolicy(groups, shapes_hash, self.edits, bypasses, self.inferred)

    def leaving(self, tensors: AbstractSet[str]) -> Structure:
        """Return this structure with more tensors that keep their values."""
        untouched = self.untouched | tensors
        layers = tuple(layer.with_untouched(untouched) for layer in self.layers)
        return replace(self, layers=layers, untouched=untouched)

    def frozen_by(self, reasons: Mapping[str, str]) -> Structure:
        """Return this structure with the named groups frozen for the given reasons."""
        if not reasons:
            return self
        dropped = tuple(
            FrozenGroup(g.name, g.size, reasons[g.name]) for g in self.groups if g.name in reasons
        )
        return replace(
            self,
            groups=tuple(g for g in self.groups if g.name not in reasons),
            frozen=self.frozen + dropped,
            edits=tuple(filter(None, (edit.without(reasons) for edit in self.edits))),
        )
