"""The weights that may become zero, each as a matrix, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from autoprune.sparsity.patterns import Pattern
from autoprune.structure.groups import LayerSpec, Structure


@dataclass(frozen=True)
class Sparse:
    """The weight of a layer that gets zeros.

    Attributes:
        layer: the layer.
        weight: the tensor of a network.
    """

    layer: LayerSpec
    weight: nn.Parameter

    @property
    def matrix(self) -> Float[Tensor, "outputs inputs"]:
        """A copy of the weight, columns by kernel tap and then by input channel."""
        return self.arranged(self.weight.detach())

    def arranged(self, tensor: Shaped[Tensor, " ..."]) -> Shaped[Tensor, "outputs inputs"]:
        """Return a tensor of the weight's shape as that matrix."""
        first = tensor.transpose(0, 1) if self.layer.is_transposed else tensor
        return first.movedim(1, -1).flatten(1).clone()

    def restored(self, matrix: Shaped[Tensor, "outputs inputs"]) -> Shaped[Tensor, " ..."]:
        """Return such a matrix as a tensor of the weight's shape."""
        shape = self.weight.shape
        outputs, channels = (shape[1], shape[0]) if self.layer.is_transposed else shape[:2]
        first = matrix.reshape(outputs, *shape[2:], channels).movedim(-1, 1)
        return (first.transpose(0, 1) if self.layer.is_transposed else first).contiguous()

    @property
    def columns(self) -> Int64[Tensor, " inputs"]:
        """Where each column is among those of the layer's input patches, which go by channel."""
        channels, taps = self.weight.shape[self.layer.in_dim], math.prod(self.weight.shape[2:])
        return torch.arange(channels * taps).reshape(channels, taps).T.flatten()


def sparse_weights(network: nn.Module, structure: Structure, pattern: Pattern) -> Iterator[Sparse]:
    """Yield the weights that may become zero: those that training may change, of a fitting shape.

    Args:
        network: the network, or a copy of it in training.
        structure: of it.
        pattern: what a weight must be divisible by.
    """
    named = dict(network.named_parameters())
    for layer in structure.layer_of_weight.values():
        weight = named.get(layer.weight)
        if weight is None or not weight.requires_grad or weight.dim() < 2:
            continue
        found = Sparse(layer, weight)
        outputs, channels = weight.shape[layer.out_dim], weight.shape[layer.in_dim]
        if pattern.fits(outputs, channels):
            yield found
