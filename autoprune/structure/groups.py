"""The prunable structure of a network, as plain values.

A `ChannelGroup` has `size` units; unit `u` owns the entries `positions[u]` of one dimension of
every tensor in its `slices`. Removing a unit removes all of them at once. One unit is usually one
channel; a whole convolution group of a grouped convolution, or a channel with its 49 inputs of a
flattened linear layer, is one unit too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property

from autoprune.core.policy import GroupPolicy, PruningPolicy, Slice, Widths, hash_shapes


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channel dimensions that must shrink together: one decision."""

    name: str
    size: int
    slices: tuple[Slice, ...]

    @cached_property
    def producers(self) -> tuple[str, ...]:
        """Weights whose outputs these channels are."""
        return tuple(s.tensor for s in self.slices if s.role == "producer")

    @cached_property
    def consumers(self) -> tuple[Slice, ...]:
        """Input dimensions of the layers that read these channels."""
        return tuple(s for s in self.slices if s.role == "consumer")


@dataclass(frozen=True)
class FrozenGroup:
    """A group that stays as it is, with the reason."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class LayerSpec:
    """One layer with a weight, as it runs on one sample.

    Attributes:
        name: module path, e.g. "layer1.0.conv1".
        kind: ATen operator, e.g. "conv2d" or "linear".
        weight: name of the weight tensor.
        bias: name of the bias tensor, or None.
        batchnorm: module path of a BN that alone reads the output, or None.
        in_dim: dimension of the weight that holds the inputs (1, or 0 if transposed).
        positions: output positions (pixels or tokens; input pixels if transposed) summed over
            the layer's calls; MACs = positions x weight.numel().
        calls: times the layer runs in one forward pass.
        kernel_size, stride, padding, dilation, groups: as in `torch.nn.Conv2d`.
        input_shape, output_shape: of its first call, without the batch.
        takes_bias: whether it is a plain convolution or linear module whose own bias is added to
            the output at every call, or would be if it had one.
        refittable: whether it is a plain convolution (transposed or not) or linear module with one
            dense weight, whose weights can be refitted by least squares.
        number: of the operator (`operators.OperatorMode`) that is its first call.
        shortcut: number of the operator that made the activation which is added to this layer's
            output (behind its BN), if it runs before the layer; else None.
        clamp: bounds to which what alone reads this layer's output (behind its BN and shortcut)
            clamps it, (0, inf) for a ReLU; None if something else reads it.
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
        """Extents of the positions at which a call multiplies (pixels or tokens)."""
        shape = self.input_shape if self.is_transposed else self.output_shape
        return shape[1:] if self.kernel_size else shape[:-1]

    @property
    def runs(self) -> float:
        """Inputs of one sample that a call reads: frames or windows folded into the batch."""
        return self.positions / (self.calls * math.prod(self.space))

    @property
    def absorbs_mean(self) -> bool:
        """Whether a constant shift of the output can go into a bias or BN that is there."""
        return self.bias is not None or self.batchnorm is not None

    def beside(self, untouched: AbstractSet[str]) -> LayerSpec:
        """Return this layer in a network in which some tensors keep their values.

        A BN whose statistics stay takes up nothing, and hides what lies behind it.
        """
        layer = self
        if f"{self.batchnorm}.running_mean" in untouched:
            layer = replace(self, batchnorm=None, shortcut=None, clamp=None)
        is_free = not untouched & {self.weight, self.bias}
        shifts = layer.takes_bias or layer.batchnorm is not None
        return replace(layer, refittable=self.refittable and is_free and shifts)


@dataclass(frozen=True, eq=False)
class Activation:
    """One piece of memory that is written and read while one sample runs through the network.

    Attributes:
        size: bytes in the dense network.
        per_unit: bytes that one unit of a group takes, by group name (their mean, should units
            differ).
    """

    size: int
    per_unit: Mapping[str, float]


@dataclass(frozen=True)
class Operator:
    """One operator that touches activations; views, which touch nothing, are none.

    Attributes:
        name: in ATen, without the underscore of work in place.
        tensors: names of the parameters and buffers that it reads.
        reads, writes: places in `Structure.activations`; work in place is in both.
    """

    name: str
    tensors: tuple[str, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class TrainingOnly:
    """What is known of layers that evaluation does not run (auxiliary heads).

    Attributes:
        layers: that run in training mode only; their inputs shrink with what they read, as
            carried slices: nothing about them is measured, refitted or counted as MACs.
        failure: how the forward pass fails in training mode, None if it does not.
        unseen: weights that no forward pass has read: nothing is known of what they read.
        wrong: groups that are right in evaluation but not in training mode, with the reasons.
    """

    layers: tuple[LayerSpec, ...] = ()
    failure: str | None = None
    unseen: tuple[str, ...] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """Yield what somebody who trains the pruned network further should know."""
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
    """All that is known about a network's channels.

    Attributes:
        groups: what may be pruned, in network order.
        frozen: what may not, and why.
        layers: layers with weights, in network order.
        fixed_macs: MACs per sample of what is no layer (attention, recurrent networks), by
            operator.
        uncounted: operators that multiply weights in a way nobody has told: their MACs are not
            counted.
        shapes: of every parameter and buffer.
        parameters: names of the trainable tensors among `shapes`, each tied tensor once.
        itemsizes: bytes per element of the tensors among `shapes`.
        activations: of one sample, the network's inputs first.
        operators: in the order in which they run; the last one hands the outputs out.
        training: what runs in training mode only.
        untouched: names of the tensors that keep their values: neither refitted nor trained.
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
    training: TrainingOnly = TrainingOnly()
    untouched: frozenset[str] = frozenset()

    @cached_property
    def dense_widths(self) -> Widths:
        """Every group whole."""
        return tuple(group.size for group in self.groups)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Group name to its place in `groups`."""
        return {group.name: i for i, group in enumerate(self.groups)}

    @cached_property
    def layer_of_weight(self) -> Mapping[str, LayerSpec]:
        """Weight tensor name to the layer that it belongs to."""
        return {layer.weight: layer for layer in self.layers}

    @cached_property
    def feeds(self) -> Mapping[str, tuple[int, ...]]:
        """Weight name of each consumer to the indices of the groups that feed it."""
        feeds: dict[str, list[int]] = {}
        for i, group in enumerate(self.groups):
            for consumer in group.consumers:
                feeds.setdefault(consumer.tensor, []).append(i)
        return {weight: tuple(indices) for weight, indices in feeds.items()}

    def policy(self, kept: Sequence[Sequence[int]]) -> PruningPolicy:
        """Return the policy that keeps the given units, one sequence per group."""
        groups = {
            group.name: GroupPolicy(group.size, tuple(sorted(units)), group.slices)
            for group, units in zip(self.groups, kept, strict=True)
        }
        # Buffers do not count: a forward pass may have made some that a new network lacks.
        return PruningPolicy(
            groups, hash_shapes({name: self.shapes[name] for name in self.parameters})
        )

    def leaving(self, tensors: AbstractSet[str]) -> Structure:
        """Return this structure with some tensors that keep their values."""
        untouched = self.untouched | tensors
        layers = tuple(layer.beside(untouched) for layer in self.layers)
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
        )
