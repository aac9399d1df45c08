"""The signature of a layer: its operator and sizes, which are all that a device sees of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from autoprune.core.records import Extent, Natural, Record, Text
from autoprune.cost.latency.alignment import AlignmentClass, Axis
from autoprune.structure.groups import LayerSpec, Structure

# A weight of so few elements can stay in memory beside any other layer.
LIGHT = 5_000_000


class Signature(Record, frozen=True, order=True, omit_defaults=True):
    """A layer with a bias; layers of equal signatures take equal time, wherever they stand.

    Attributes:
        operator: The name in ATen: "conv1d", "conv2d", "conv3d", "conv_transpose1d", …, "linear".
        channels_in: The input channels, or the input features of a linear layer.
        channels_out: The output channels, or the output features of a linear layer.
        kernel: The kernel size; empty for a linear layer, as are the next three.
        stride: The stride, as in `torch.nn.Conv2d`.
        padding: The padding on each side.
        dilation: The dilation.
        groups: The number of convolution groups.
        spatial: The size of the input after the channels; for a linear layer the dimensions
            between the batch and the features.
        across: Whether all groups lose channels alike, and none goes (see `LayerSpec.across`).
    """

    operator: Text
    channels_in: Extent
    channels_out: Extent
    kernel: tuple[Extent, ...]
    stride: tuple[Extent, ...]
    padding: tuple[Natural, ...]
    dilation: tuple[Extent, ...]
    groups: Extent
    spatial: tuple[Extent, ...]
    across: bool = False

    def __post_init__(self) -> None:
        if self.channels_in % self.groups or self.channels_out % self.groups:
            raise ValueError(f"{self}: channels do not come in whole groups")

    @classmethod
    def of(cls, layer: LayerSpec, structure: Structure) -> Signature:
        """Return the signature of a layer of the dense network."""
        lengths = structure.shapes[layer.weight][:2]
        shape = layer.input_shape
        return cls(
            operator=layer.kind,
            channels_in=lengths[layer.in_dim] * layer.groups,
            channels_out=lengths[layer.out_dim],
            kernel=layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            spatial=shape[1:] if layer.kernel_size else shape[:-1],
            across=layer.across,
        )

    @property
    def is_transposed(self) -> bool:
        """Whether the weight has the shape (in, out, …)."""
        return self.operator.startswith("conv_transpose")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        lengths = (self.channels_out, self.inputs)
        return (*(lengths[::-1] if self.is_transposed else lengths), *self.kernel)

    @property
    def inputs(self) -> int:
        """The inputs that each output reads: the length of the weight's input dimension."""
        return self.channels_in // self.groups

    @property
    def loses_groups(self) -> bool:
        """Whether groups of the convolution go as a whole, with all of their channels."""
        return self.groups > 1 and not self.across

    @property
    def outputs_at_once(self) -> int:
        """The outputs that can only be removed together: of one group, or one of each."""
        return self.channels_out // self.groups if self.loses_groups else self.groups

    @property
    def aligned_channels(self) -> int:
        """What alignment depends on: the inputs, or the groups of a convolution that loses them."""
        return self.groups if self.loses_groups else self.inputs

    def input_axis(self, own: AlignmentClass) -> Axis:
        """Return the lengths of the weight's input dimension in an alignment class."""
        return Axis(self.inputs, alignment_class=AlignmentClass() if self.loses_groups else own)

    def output_axis(self, own: AlignmentClass) -> Axis:
        """Return the lengths of the weight's output dimension in an alignment class."""
        unit = self.outputs_at_once
        return Axis(self.channels_out, unit, own if self.loses_groups else AlignmentClass())

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape of the layer's input."""
        if self.kernel:
            return (batch, self.channels_in, *self.spatial)
        return (batch, *self.spatial, self.channels_in)

    def cut_to(self, inputs: int, outputs: int) -> Signature:
        """Return the signature with other lengths of the weight's first two dimensions.

        If groups go as a whole, each keeps its `inputs`.
        """
        if not self.loses_groups:
            return replace(self, channels_in=inputs * self.groups, channels_out=outputs)
        groups = max(outputs * self.groups // self.channels_out, 1)
        return replace(self, channels_in=groups * self.inputs, channels_out=outputs, groups=groups)

    def is_like(self, other: Signature) -> bool:
        """Return whether two layers differ at most in their numbers of channels."""
        bare = [replace(one, channels_in=0, channels_out=0, groups=1) for one in (self, other)]
        return bare[0] == bare[1] and self._fixed_shape == other._fixed_shape

    @property
    def _fixed_shape(self) -> tuple[int, ...]:
        return (self.inputs, self.outputs_at_once) if self.loses_groups else (self.groups,)

    @property
    def weight_count(self) -> int:
        """The number of elements of the weight."""
        return math.prod(self.weight_shape)

    @property
    def is_light(self) -> bool:
        """Whether the weight can stay in memory while other layers are measured in turn."""
        return self.weight_count <= LIGHT

    @property
    def work(self) -> int:
        """The multiply-accumulates for one sample, ignoring padding and stride."""
        return self.weight_count * math.prod(self.spatial)

    def __str__(self) -> str:
        size = "x".join(map(str, self.kernel))
        parts = [self.operator, size, f"{self.channels_in} to {self.channels_out} channels"]
        if self.groups > 1:
            parts.append(f"in {self.groups} groups")
        if any(step > 1 for step in self.stride):
            parts.append(f"stride {'x'.join(map(str, self.stride))}")
        if self.spatial:
            parts.append(f"on {'x'.join(map(str, self.spatial))}")
        return " ".join(filter(None, parts))


BARE = Signature("linear", 1, 1, (), (), (), (), 1, ())
"""A layer that computes almost nothing, so that its latency is the overhead of a call."""


@dataclass(frozen=True)
class Family:
    """A layer at all widths that it can be cut to.

    Attributes:
        dense: The signature in the dense network.
        inputs_vary: Whether the inputs can be cut.
        outputs_vary: Whether the outputs can be cut.
    """

    dense: Signature
    inputs_vary: bool
    outputs_vary: bool

    @property
    def alignment_varies(self) -> bool:
        """Whether the number of aligned channels can be cut."""
        return self.outputs_vary if self.dense.loses_groups else self.inputs_vary

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """What libraries choose a kernel by: operator, pointwise or not, grouped or not."""
        dense = self.dense
        return dense.operator, all(size == 1 for size in dense.kernel), dense.groups > 1

    def may_align_to(self, multiple: int) -> bool:
        """Return whether the layer has widths at two multiples of a number, and between them."""
        return self.alignment_varies and self.dense.aligned_channels >= 2 * multiple

    def with_aligned_channels(self, count: int) -> Signature:
        """Return the dense layer with another number of aligned channels."""
        dense = self.dense
        if dense.loses_groups:
            return dense.cut_to(dense.inputs, count * dense.outputs_at_once)
        return dense.cut_to(count, dense.channels_out)


def families(structure: Structure) -> list[Family]:
    """Return the distinct layers of a network, in order, each with the widths that can be cut."""
    dims = {(s.tensor, s.dim) for group in structure.groups for s in group.slices}
    found: dict[Signature, Family] = {}
    for layer in structure.layers:
        dense = Signature.of(layer, structure)
        before = found.get(dense, Family(dense, False, False))
        found[dense] = Family(
            dense,
            before.inputs_vary or (layer.weight, layer.in_dim) in dims,
            before.outputs_vary or (layer.weight, layer.out_dim) in dims,
        )
    return list(found.values())
