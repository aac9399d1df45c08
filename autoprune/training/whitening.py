"""AdamW in coordinates in which the inputs of every layer are uncorrelated and of equal power.

A layer's outputs W x + b are written as scale · (U R⁻¹ (x - mean) + c), where R² is the covariance
of x, and U and c are trained (Desjardins et al. 2015, "Natural neural networks", section 3; the
rows of U start with length one). A step then changes the outputs by the same amount in every
direction, so that training takes far fewer steps than with plain AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.batchnorm import fold_batchnorm, unfold_batchnorm
from autoprune.statistics.consumers import LayerMode
from autoprune.statistics.moments import Moments, MomentSum, is_laid_out
from autoprune.structure.frozen import freeze_only
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run
from autoprune.training.optimizers import set_rate

# Learning rate of parameters that belong to no layer, in their own coordinates, as a share of the
# others'.
PLAIN_SHARE = 4 / 30
# Fraction of the mean variance that is added to the variance of every direction.
DAMPING = 0.1
# A 3x3 convolution of 128 channels has 1,152 inputs: the root of their covariance takes a second.
# For wider layers, and for inputs that are not rows of patches, only the power is estimated.
MOST_INPUTS = 1200
# Rows per input to estimate a covariance from; with fewer than one, only the power is estimated.
ROWS = 8
# Smallest scale of an output, as a fraction of the mean scale.
SHORTEST = 0.1
# Smaller powers count as zero.
TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Basis:
    """Whitening of one layer's inputs.

    Attributes:
        mean: E[x]; None where only the power is known, and where no bias can compensate it.
        inverse: R⁻¹; a scalar where only the power is known.
    """

    mean: Float[Tensor, " inputs"] | None
    inverse: Float[Tensor, "inputs inputs"] | Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Whitening:
    """A network with folded BN, and coordinates in which the inputs of its layers are whitened.

    Attributes:
        network: to be trained in these coordinates.
        structure: structure of the network that it was cut from.
        bases: whitening of the layers' inputs, by weight name.
        given: the network, as it was before its BN was folded.
    """

    network: nn.Module
    structure: Structure
    bases: Mapping[str, Basis]
    given: nn.Module

    def optimizer(self, network: nn.Module) -> WhitenedAdam:
        """Return the optimizer of a copy of `network`."""
        return WhitenedAdam(network, self.structure, self.bases)

    def unfolded(self, trained: nn.Module) -> nn.Module:
        """Return the network that was trained, with BN as in the given one."""
        return unfold_batchnorm(trained, self.given, self.structure)


def whitened(given: nn.Module, structure: Structure, batches: Sequence[Samples]) -> Whitening:
    """Return a network in whitened coordinates.

    Args:
        given: the network in evaluation mode.
        structure: structure of the network that it was cut from, which leaves what is frozen.
        batches: to estimate the whitening from.
    """
    folded = fold_batchnorm(given, structure, to_train=True)
    freeze_only(folded, structure.untouched)
    return Whitening(folded, structure, find_bases(folded, structure, batches), given)


def find_bases(
    network: nn.Module, structure: Structure, batches: Sequence[Samples]
) -> dict[str, Basis]:
    """Return the whitening of every layer's inputs, by weight name.

    Args:
        network: the network in evaluation mode, possibly with folded BN; layers whose weights are
            not trained are left out.
        structure: structure of the network that it was cut from.
        batches: to estimate the whitening from.
    """
    seen = _InputStatistics(network, structure)
    total = sum(map(len, batches))
    with torch.no_grad(), seen:
        for batch in batches:
            seen.share = len(batch) / total
            run(network, batch.inputs)
    weights = dict(network.named_parameters())
    return {
        layer.weight: seen.basis(layer, weights[layer.weight], _bias(network, layer) is not None)
        for layer in structure.layers
        # Other layers do not run, have no parameter, or are not trained.
        if layer.weight in seen.powers and weights[layer.weight].requires_grad
    }


class WhitenedAdam(torch.optim.AdamW):
    """AdamW on the whitened coordinates of a network's layers.

    It takes the gradients of the network's parameters, and sets these parameters after a step.
    """

    def __init__(
        self, network: nn.Module, structure: Structure, bases: Mapping[str, Basis]
    ) -> None:
        """Set up the coordinates of every layer.

        Args:
            network: the network to train, in the parameters that require gradients.
            structure: structure of the network that it was cut from.
            bases: whitening of the layers' inputs, by weight name; layers without one are trained
                in their own coordinates.
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
        groups = [{"params": layer.trained, "share": layer.share} for layer in self._layers]
        groups += [{"params": plain, "share": PLAIN_SHARE}] if plain else []
        super().__init__(groups, weight_decay=0.0)

    def learn(self, loss: Float[Tensor, ""], rate: float) -> None:
        """Take one step.

        Args:
            loss: loss of the network.
            rate: learning rate, the relative change of a layer's outputs.
        """
        self.zero_grad()
        loss.backward()
        set_rate(self, rate)
        self.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the network."""
        self._network.zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the network by the gradients of its parameters, which are there already."""
        for layer in self._layers:
            layer.take_gradient()
        super().step()
        for layer in self._layers:
            layer.write()

    def state_dict(self) -> dict[str, Any]:
        """Return all that steps have changed, as tensors and plain values."""
        layers = [{"trained": one.trained, "scale": one.scale} for one in self._layers]
        return {**super().state_dict(), "layers": layers}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`, for the same layers; the network's weights are not in it."""
        for layer, own in zip(self._layers, state_dict["layers"], strict=True):
            layer.scale.copy_(own["scale"])
            for trained, value in zip(layer.trained, own["trained"], strict=True):
                trained.copy_(value)
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})


def _bias(network: nn.Module, layer: LayerSpec) -> nn.Parameter | None:
    """Return the trained parameter that shifts a layer's outputs, if there is one."""
    if layer.is_transposed or layer.weight != f"{layer.name}.weight":
        return None  # the outputs of a transposed layer are not rows of its weight
    weight = network.get_parameter(layer.weight)
    bias = getattr(network.get_submodule(layer.name), "bias", None)
    if not isinstance(bias, nn.Parameter) or bias.shape != weight.shape[:1]:
        return None
    if not bias.requires_grad:
        return None
    owners = sum(getattr(module, "bias", None) is bias for module in network.modules())
    return bias if owners == 1 else None


class _InputStatistics(LayerMode):
    """Collects the moments of the layers' inputs, or only their power.

    Attributes:
        share: fraction of all samples that is in the current batch.
        powers: mean squares over all batches so far, by weight name.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__(model, structure)
        self._weights = dict(model.named_parameters())
        self._generator = torch.Generator().manual_seed(0)
        self._sums: dict[str, MomentSum] = {}
        self.share = 1.0
        self.powers: dict[str, float] = {}

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Add a layer's input."""
        power = self.share * float(source.float().square().mean())
        self.powers[layer.weight] = self.powers.get(layer.weight, 0.0) + power
        inputs = self._weights[layer.weight][0].numel()
        has_patches = layer.refittable and not layer.is_transposed and layer.calls == 1
        if has_patches and is_laid_out(layer, source) and inputs <= MOST_INPUTS:
            if layer.weight not in self._sums:
                self._sums[layer.weight] = MomentSum(layer, inputs, source.device)
            positions = math.ceil(ROWS * inputs * self.share / len(source))
            self._sums[layer.weight].add(source, positions, self._generator)
        return source

    def basis(self, layer: LayerSpec, weight: Tensor, has_bias: bool) -> Basis:
        """Return the whitening of a layer's inputs, in the precision that it is trained in."""
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
    """A layer's weight and bias, and the coordinates that they are trained in.

    Attributes:
        parameters: weight and, if there is one, bias of the layer.
        trained: U, of shape (outputs, inputs), and c, of shape (outputs,), if there is a bias.
        scale: of the outputs, of shape (outputs, 1).
        share: of the learning rate, by which one coordinate of both moves in a step.
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
        self.scale = length.clamp_min(max(SHORTEST * float(length.mean()), TINY))
        self.trained = [whitened / self.scale]
        if bias is not None:
            shifted = bias.detach().to(rows.dtype) + self._shift(rows)
            self.trained.append(shifted / self.scale[:, 0])
        self.share = 1 / math.sqrt(rows.shape[1])

    def take_gradient(self) -> None:
        """Convert the gradients of the parameters into those of the coordinates."""
        slopes = [
            torch.zeros_like(trained) if own.grad is None else own.grad.reshape(trained.shape)
            for own, trained in zip(self.parameters, self.trained, strict=True)
        ]
        slopes = [slope.to(self._inverse.dtype) for slope in slopes]
        if self._mean is not None:
            slopes[0] = slopes[0] - torch.outer(slopes[1], self._mean)
        self.trained[0].grad = _times(slopes[0], self._inverse) * self.scale
        for trained, slope in zip(self.trained[1:], slopes[1:], strict=True):
            trained.grad = slope * self.scale[:, 0]

    @torch.no_grad()
    def write(self) -> None:
        """Set the parameters to the values that the coordinates stand for."""
        rows = _times(self.trained[0] * self.scale, self._inverse)
        self.parameters[0].copy_(rows.reshape(self.parameters[0].shape))
        for parameter, trained in zip(self.parameters[1:], self.trained[1:], strict=True):
            parameter.copy_(trained * self.scale[:, 0] - self._shift(rows))

    def _shift(self, rows: Float[Tensor, "outputs inputs"]) -> Float[Tensor, " outputs"] | float:
        """Return the contribution of the inputs' mean to the outputs."""
        return 0.0 if self._mean is None else rows @ self._mean


def _times(
    rows: Float[Tensor, "outputs inputs"],
    inverse: Float[Tensor, "inputs inputs"] | Float[Tensor, ""],
) -> Float[Tensor, "outputs inputs"]:
    return rows @ inverse if inverse.dim() else rows * inverse


def _second(moments: Moments) -> Float64[Tensor, "inputs inputs"]:
    """Return E[x xᵀ]."""
    return moments.covariance + torch.outer(moments.mean, moments.mean)


def _inverse_root(second: Float64[Tensor, "inputs inputs"]) -> Float64[Tensor, "inputs inputs"]:
    """Return the inverse of the symmetric square root of a damped matrix."""
    damped = second.clone()
    damped.diagonal().add_(max(DAMPING * float(second.diagonal().mean()), TINY))
    values, vectors = torch.linalg.eigh(damped)
    inverse: Tensor = (vectors / values.sqrt()) @ vectors.T
    return inverse
