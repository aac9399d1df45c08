"""Segments of a network with a classifier behind each, and when their channels are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.methods.units import channel_dim
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure


@dataclass(frozen=True)
class Window:
    """When the channels of a group are chosen.

    Attributes:
        group: its index.
        begin: fraction of the run at which no channel is admitted yet.
        end: fraction at which all that stay are.
    """

    group: int
    begin: float
    end: float

    def count(self, completed: float, width: int) -> int:
        """Return how many of the channels that stay are admitted at a fraction of the run."""
        span = self.end - self.begin
        share = min((completed - self.begin) / span, 1.0) if span > 0 else 1.0
        return max(1, math.ceil(share * width))


@dataclass(frozen=True)
class Segment:
    """A part of a network that is tuned, and whose channels are then chosen.

    Attributes:
        head: the layer on whose outputs the segment's head looks; None where that is the network's
            own output.
        windows: of its groups, one after the other.
    """

    head: LayerSpec | None
    windows: tuple[Window, ...]


def segments(
    structure: Structure, chosen: Sequence[int], heads: int, tuning: float, end: float
) -> list[Segment]:
    """Divide a network into one segment more than it has heads, each with as many groups.

    Args:
        structure: of the network.
        chosen: indices of the groups whose channels are chosen.
        heads: classifiers, each behind the layers that read its segment's channels.
        tuning: fraction of a segment's time before its channels are chosen.
        end: fraction of the run that all segments take together.
    """
    order = sorted(chosen, key=lambda index: _number(structure.groups[index], structure))
    count = min(heads + 1, len(order))
    bounds = [round(number * len(order) / count) for number in range(count + 1)] if count else []
    found = []
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        own, share = order[first:last], end / count
        begin, span = (number + tuning) * share, (1 - tuning) * share / len(own)
        windows = tuple(
            Window(group, begin + place * span, begin + (place + 1) * span)
            for place, group in enumerate(own)
        )
        following = order[last] if last < len(order) else None
        found.append(Segment(None if following is None else _maker(structure, following), windows))
    return found


def _number(group: ChannelGroup, structure: Structure) -> float:
    """Return when the first layer runs that makes a group's channels."""
    layers = structure.layer_of_weight
    return min((layers[p].number for p in group.producers if p in layers), default=math.inf)


def _maker(structure: Structure, index: int) -> LayerSpec | None:
    """Return the first layer that makes a group's channels, if it is a module."""
    layers = structure.layer_of_weight
    own = [layers[p] for p in structure.groups[index].producers if p in layers]
    made = [layer for layer in own if layer.is_module and layer.takes_bias]
    return min(made, key=lambda layer: layer.number, default=None)


class Head(nn.Module):
    """A classifier on features: BN, ReLU, average pooling and a linear layer."""

    def __init__(self, layer: LayerSpec, classes: int, generator: torch.Generator) -> None:
        """Make it for the outputs of a layer.

        Args:
            layer: whose outputs, behind its BN, are the features.
            classes: number of class scores.
            generator: of the first weights.
        """
        super().__init__()
        self._dim = channel_dim(layer)
        channels = layer.output_shape[0 if layer.kernel_size else -1]
        self.norm = nn.BatchNorm1d(channels, track_running_stats=False)
        self.linear = nn.Linear(channels, classes)
        bound = 1 / math.sqrt(channels)
        with torch.no_grad():
            for one in self.linear.parameters():
                one.uniform_(-bound, bound, generator=generator)

    def forward(
        self, features: Float[Tensor, "samples dim *dims"]
    ) -> Float[Tensor, "samples classes"]:
        """Return class scores."""
        lines = features.movedim(self._dim, 1)
        positions = F.relu(self.norm(lines.reshape(*lines.shape[:2], -1)))
        scores: Tensor = self.linear(positions.mean(2))
        return scores
