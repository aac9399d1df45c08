"""AdamW in coordinates in which the inputs of every layer are uncorrelated and of equal power.

A layer's outputs W x + b are written as scale · (U R⁻¹ (x - mean) + c), where R² is the covariance
of x, and U and c are what is learnt (Desjardins et al. 2015, "Natural neural networks", section 3;
the rows of U begin with length one). A step then changes the outputs by as much whatever direction
it takes, so that few steps do what takes AdamW itself many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics.consumers import LayerMode
from autoprune.statistics.moments import Moments, MomentSum, is_laid_out
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run

# Of the step's length in these coordinates, at its peak: what the outputs change by, as a share.
RATE = 0.03
# The same of what belongs to no layer, as it is.
PLAIN_RATE = 4e-3
# Share of the mean variance that is added to every direction's.
DAMPING = 0.1
# A 3x3 convolution of 128 channels has 1,152 inputs: its covariance's root takes a second. Of wider
# layers, and of those whose inputs are no rows of patches, only the inputs' power is known.
MOST_INPUTS = 1200
# Rows per input that a covariance is estimated from; with fewer than one it is not.
ROWS = 8
# Outputs whose weights are shorter than that share of the usual are learnt as if they were so long.
SHORTEST = 0.1
# Smaller powers are as good as zero.
TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Basis:
    """What the inputs of one layer are like.

    Attributes:
        mean: E[x], (d,); None where only the power is known, and where no bias can undo it.
        inverse: R⁻¹, (d, d), or () where only the power is known.
    """

    mean: Tensor | None
    inverse: Tensor


def find_bases(
    network: nn.Module, structure: Structure, samples: Samples, size: int
) -> dict[str, Basis]:
    """Return what the layers of a network read, by the name of their weight.

    Args:
        network: in evaluation mode, perhaps with BN folded; layers whose weights are not to be
            trained are left out.
        structure: of the network that it was cut from.
        samples: to look at.
        size: of the batches that they are run in.
    """
    seen = _Seen(network, structure, len(samples))
    with torch.no_grad(), seen:
        for batch in samples.batches(size):
            seen.share = len(batch) / len(samples)
            run(network, batch.inputs)
    weights = dict(network.named_parameters())
    return {
        layer.weight: seen.basis(layer, weights[layer.weight], _bias(network, layer) is not None)
        for layer in structure.layers
        # Else it does not run, or is no parameter, or stays as it is.
        if layer.weight in seen.powers and weights[layer.weight].requires_grad
    }


class WhitenedAdam:
    """Changes a network's parameters by their gradients."""

    def __init__(
        self, network: nn.Module, structure: Structure, bases: Mapping[str, Basis]
    ) -> None:
        """Take a network.

        Args:
            network: to be changed, in the parameters that require gradients.
            structure: of the network that it was cut from.
            bases: of the network's layers, now or earlier; the others are learnt as they are.
        """
        self._network = network
        weights = dict(network.named_parameters())
        self._layers = [
            _Coordinates(weights[layer.weight], _bias(network, layer), bases[layer.weight])
            for layer in structure.layers
            if layer.weight in bases
        ]
        inside = {id(one) for layer in self._layers for one in layer.parameters}
        plain = [p for p in network.parameters() if p.requires_grad and id(p) not in inside]
        groups = [{"params": layer.learnt, "peak": layer.rate} for layer in self._layers]
        groups += [{"params": plain, "peak": PLAIN_RATE}] if plain else []
        self._adam = torch.optim.AdamW(groups, weight_decay=0.0)

    def step(self, loss: Tensor, share: float) -> None:
        """Go downhill on a loss.

        Args:
            loss: of the network, a scalar.
            share: of the peak rates.
        """
        self._network.zero_grad()
        loss.backward()
        for layer in self._layers:
            layer.take_gradient()
        for group in self._adam.param_groups:
            group["lr"] = group["peak"] * share
        self._adam.step()
        for layer in self._layers:
            layer.write()


def _bias(network: nn.Module, layer: LayerSpec) -> nn.Parameter | None:
    """Return the parameter that shifts a layer's outputs and is trained, if there is one."""
    if layer.is_transposed or layer.weight != f"{layer.name}.weight":
        return None  # the outputs of a transposed layer are no rows of its weight
    weight = network.get_parameter(layer.weight)
    bias = getattr(network.get_submodule(layer.name), "bias", None)
    if not isinstance(bias, nn.Parameter) or bias.shape != weight.shape[:1]:
        return None
    if not bias.requires_grad:
        return None
    owners = sum(getattr(module, "bias", None) is bias for module in network.modules())
    return bias if owners == 1 else None


class _Seen(LayerMode):
    """Gathers the moments of what layers read, or its power alone.

    Attributes:
        share: of all samples that are in the batch.
        powers: mean squares, summed over the batches.
    """

    def __init__(self, model: nn.Module, structure: Structure, samples: int) -> None:
        super().__init__(model, structure)
        self._weights = dict(model.named_parameters())
        self._generator = torch.Generator().manual_seed(0)
        self._sums: dict[str, MomentSum] = {}
        self.share = 1.0
        self.powers: dict[str, float] = {}

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Look at a layer's input."""
        power = self.share * float(source.float().square().mean())
        self.powers[layer.weight] = self.powers.get(layer.weight, 0.0) + power
        inputs = self._weights[layer.weight][0].numel()
        able = layer.refittable and not layer.is_transposed and layer.calls == 1
        if able and is_laid_out(layer, source) and inputs <= MOST_INPUTS:
            if layer.weight not in self._sums:
                self._sums[layer.weight] = MomentSum(layer, inputs, source.device)
            positions = math.ceil(ROWS * inputs * self.share / len(source))
            self._sums[layer.weight].add(source, positions, self._generator)
        return source

    def basis(self, layer: LayerSpec, weight: Tensor, has_bias: bool) -> Basis:
        """Return what a layer's inputs are like, in the precision that it is learnt in."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        total = self._sums.get(layer.weight)
        if total is None or total.count < weight[0].numel():
            root = math.sqrt(max(self.powers[layer.weight], TINY))
            return Basis(None, torch.tensor(1 / root, dtype=dtype, device=weight.device))
        moments = total.moments()
        if has_bias:
            return Basis(moments.mean.to(dtype), _inverse_root(moments.covariance).to(dtype))
        return Basis(None, _inverse_root(_second(moments)).to(dtype))


class _Coordinates:
    """A layer's weight and bias, and the coordinates that they are learnt in.

    Attributes:
        parameters: of the network.
        learnt: U, (outputs, inputs), and c, (outputs,), where there is a bias.
        rate: of both at its peak.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, basis: Basis) -> None:
        self.parameters = [weight] if bias is None else [weight, bias]
        self._mean, self._inverse = basis.mean, basis.inverse
        rows = weight.detach().flatten(1).to(self._inverse.dtype)
        if self._inverse.dim():
            whitened = torch.linalg.solve(self._inverse, rows, left=False)
        else:
            whitened = rows / self._inverse
        length = whitened.norm(dim=1, keepdim=True)
        self._scale = length.clamp_min(max(SHORTEST * float(length.mean()), TINY))
        self.learnt = [whitened / self._scale]
        if bias is not None:
            shifted = bias.detach().to(rows.dtype) + self._shift(rows)
            self.learnt.append(shifted / self._scale[:, 0])
        self.rate = RATE / math.sqrt(rows.shape[1])

    def take_gradient(self) -> None:
        """Turn the parameters' gradients into those of what is learnt."""
        slopes = [
            torch.zeros_like(learnt) if own.grad is None else own.grad.reshape(learnt.shape)
            for own, learnt in zip(self.parameters, self.learnt, strict=True)
        ]
        slopes = [slope.to(self._inverse.dtype) for slope in slopes]
        if self._mean is not None:
            slopes[0] = slopes[0] - torch.outer(slopes[1], self._mean)
        self.learnt[0].grad = _times(slopes[0], self._inverse) * self._scale
        for learnt, slope in zip(self.learnt[1:], slopes[1:], strict=True):
            learnt.grad = slope * self._scale[:, 0]

    @torch.no_grad()
    def write(self) -> None:
        """Give the parameters the values that what is learnt stands for."""
        rows = _times(self.learnt[0] * self._scale, self._inverse)
        self.parameters[0].copy_(rows.reshape(self.parameters[0].shape))
        for parameter, learnt in zip(self.parameters[1:], self.learnt[1:], strict=True):
            parameter.copy_(learnt * self._scale[:, 0] - self._shift(rows))

    def _shift(self, rows: Tensor) -> Tensor | float:
        """Return what the inputs' mean adds to the outputs."""
        return 0.0 if self._mean is None else rows @ self._mean


def _times(rows: Tensor, inverse: Tensor) -> Tensor:
    return rows @ inverse if inverse.dim() else rows * inverse


def _second(moments: Moments) -> Tensor:
    return moments.covariance + torch.outer(moments.mean, moments.mean)


def _inverse_root(second: Tensor) -> Tensor:
    """Return the inverse of a damped matrix's symmetric square root."""
    damped = second.clone()
    damped.diagonal().add_(max(DAMPING * float(second.diagonal().mean()), TINY))
    values, vectors = torch.linalg.eigh(damped)
    inverse: Tensor = (vectors / values.sqrt()) @ vectors.T
    return inverse
