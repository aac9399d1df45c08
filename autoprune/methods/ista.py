"""Proximal steps on BN scales, weighted by what a channel costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.agents.config import Amount
from autoprune.methods.slimming import Slimming
from autoprune.methods.units import along, scales
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class IstaConfig:
    """How strongly BN scales are penalised.

    Attributes:
        sparsity: ρ, the weight of the penalty.
    """

    sparsity: Amount = 0.005


class Ista(Slimming):
    """Rethinking the smaller-norm-less-informative assumption (Ye et al. 2018).

    BN scales γ are trained by plain gradient steps, each followed by the proximal operator
    γ ← γ max(0, 1 − η ρ λ / |γ|) with the learning rate η (section 4.1). λ is a channel's cost
    relative to the positions of the image: (weights that make it + weights that read it + its own
    positions) / positions of the image. Where the first layer is linear, these are tokens, or one
    for plain vectors, whose λ is that much larger than a convolution's: take a smaller ρ. Channels
    with γ = 0 are constants, which the cut moves into the biases of what reads them; exact but for
    the borders of padded layers.

    ρ is .001 and then .005 in the authors' ResNet-20 on CIFAR-10, over 80,000 steps in all. They
    also begin with smaller scales and larger following weights; that is not done here. Costs
    nothing beside training.
    """

    name: ClassVar[str] = "ista"
    config = IstaConfig()

    @property
    def least_score(self) -> float:
        """Channels with scales above zero stay."""
        return 0.0

    def start(self, network: nn.Module) -> None:
        """Compute the costs of channels."""
        self._gradients: dict[str, Tensor] = {}
        self._costs = {
            group.name: channel_cost(group, self.goal.structure)
            for group in self.goal.structure.groups
        }

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Take the gradients of scales from the optimizer, which has momentum."""
        self._gradients = {}
        for name, scale in self._scales(network).items():
            if scale.grad is not None:
                self._gradients[name] = scale.grad
                scale.grad = None

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Take a proximal step of the scales."""
        for name, scale in self._scales(network).items():
            if name in self._gradients:
                scale.sub_(self._gradients[name], alpha=now.rate)
        for group in self.goal.structure.groups:
            shrink = now.rate * self.config.sparsity * self._costs[group.name]
            for part, scale in scales(group, network):
                amount = along(torch.full((group.size,), shrink), part, scale, rest=0.0)
                scale.copy_(scale.sign() * (scale.abs() - amount).clamp_min(0))


def channel_cost(group: ChannelGroup, structure: Structure) -> float:
    """Return λ of a group's channels (section 4.2): weights and positions over the image's.

    Args:
        group: the group; its positions are those at which its first layer makes it.
        structure: of the network; the image's positions are those of its first layer's inputs.
    """
    layers = structure.layer_of_weight
    weights = sum(
        part.positions.shape[1]
        * math.prod(structure.shapes[part.tensor])
        / structure.shapes[part.tensor][part.dim]
        for part in group.slices
        if part.tensor in layers
    )
    makers = [(part, layers[part.tensor]) for part in group.slices if part.role == "producer"]
    part, maker = min(makers, key=lambda one: one[1].number)
    own = part.positions.shape[1] * _positions(maker, maker.output_shape)
    first = structure.layers[0]
    return float(weights + own) / _positions(first, first.input_shape)


def _positions(layer: LayerSpec, shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:] if layer.kernel_size else shape[:-1])
