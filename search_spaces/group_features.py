"""Features of a channel group that mean the same in any network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure


@dataclass(frozen=True)
class GroupFeatures:
    """The layers that make and read one group's channels.

    Attributes:
        producers, consumers: how many layers there are of each.
        kernel: taps of the largest producer's kernel (9 for 3x3; 1 for linear layers).
        stride: of that producer, over all dimensions (4 for 2x2).
        depthwise: whether a depthwise or grouped convolution is among the producers.
        linear: whether a consumer is a linear layer.
        positions: output positions of the largest producer as a share of the network's most.
    """

    producers: int = 1
    consumers: int = 1
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    linear: bool = False
    positions: float = 1.0


def describe(structure: Structure) -> tuple[GroupFeatures, ...]:
    """Return the features of every group of a network."""
    most = max((layer.positions for layer in structure.layers), default=1)
    return tuple(_describe(group, structure, most) for group in structure.groups)


def _describe(group: ChannelGroup, structure: Structure, most: int) -> GroupFeatures:
    makers = _layers(group.producers, structure)
    readers = _layers([s.tensor for s in group.consumers], structure)
    if not makers:
        return GroupFeatures(producers=0, consumers=len(readers))
    largest = max(makers, key=lambda layer: layer.positions * math.prod(layer.kernel_size))
    return GroupFeatures(
        producers=len(makers),
        consumers=len(readers),
        kernel=math.prod(largest.kernel_size),
        stride=math.prod(largest.stride),
        depthwise=any(layer.groups > 1 for layer in makers),
        linear=any(not layer.kernel_size for layer in readers),
        positions=largest.positions / most,
    )


def _layers(weights: Sequence[str], structure: Structure) -> list[LayerSpec]:
    known = structure.layer_of_weight
    return [known[weight] for weight in dict.fromkeys(weights) if weight in known]
