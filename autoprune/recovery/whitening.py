"""AdamW in coordinates in which the inputs of every layer are uncorrelated and of equal power.

A layer's outputs W x + b are written as scale · (U R⁻¹ (x - mean) + c), where R² is the covariance
of x, and U and c are what is learnt (Desjardins et al. 2015, "Natural neural networks", section 3;
the rows of U begin with length one). A step then changes the outputs by as much whatever direction
it takes, so that few steps do what takes AdamW itself many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autoprune.statistics.consumers import LayerMode
from autoprune.statistics.moments import Moments, MomentSum
from autoprune.structure.groups import LayerSpec, Structure

# Of the step's length in these coordinates, at its peak: what the outputs change by, as a share.
RATE = 0.03
# The same of what belongs to no layer, as it is.
PLAIN_RATE = 4e-3
# Share of the mean variance that is added to every direction's.
DAMPING = 0.1
# A 3x3 convolution of 256 channels has 2,304 inputs: factorising its covariance takes a second.
MOST_INPUTS = 2500
# Rows per input that a covariance is estimated from.
ROWS = 8
# Smaller powers are as good as zero.
TINY = 1e-6


class WhitenedAdam:
    """Changes a network's parameters by their gradients."""

    def __init__(self, network: nn.Module, structure: Structure, inputs: Tensor) -> None:
        """Take a network whose parameters all learn, and inputs to learn its layers' inputs from.

        Args:
            network: in evaluation mode, perhaps with BN folded.
            structure: of the network that it was cut from.
            inputs: (samples, channels, …).
        """
        self._network = network
        seen = _Seen(network, structure, len(inputs))
        with torch.no_grad(), seen:
            network(inputs)
        self._layers = list(_coordinates(network, structure, seen))
        inside = {id(one) for layer in self._layers for one in layer.parameters}
        plain = [one for one in network.parameters() if one.requires_grad and id(one) not in inside]
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


class _Seen(LayerMode):
    """Gathers the moments of what layers read, or its power alone."""

    def __init__(self, model: nn.Module, structure: Structure, samples: int) -> None:
        super().__init__(model, structure)
        self._weights = dict(model.named_parameters())
        self._samples = samples
        self._generator = torch.Generator().manual_seed(0)
        self.moments: dict[str, Moments] = {}
        self.powers: dict[str, float] = {}

    def visit(self, layer: LayerSpec, source: Tensor) -> Tensor:
        """Look at a layer's input."""
        self.powers[layer.weight] = float(source.float().square().mean())
        inputs = self._weights[layer.weight][0].numel()
        if layer.refittable and layer.calls == 1 and inputs <= MOST_INPUTS:
            total = MomentSum(layer, inputs, source.device)
            total.add(source, -(-ROWS * inputs // self._samples), self._generator)
            self.moments[layer.weight] = total.moments()
        return source


class _Coordinates:
    """A layer's weight and bias, and the coordinates that they are learnt in.

    Attributes:
        parameters: of the network.
        learnt: U, (outputs, inputs), and c, (outputs,), where there is a bias.
        rate: of both at its peak.
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, mean: Tensor | None, inverse: Tensor
    ) -> None:
        """Take the parameters, the inputs' mean if a bias can undo it, and R⁻¹, () or (d, d)."""
        self.parameters = [weight] if bias is None else [weight, bias]
        self._mean, self._inverse = mean, inverse
        rows = weight.detach().flatten(1).to(inverse.dtype)
        whitened = (
            torch.linalg.solve(inverse, rows, left=False) if inverse.dim() else rows / inverse
        )
        self._scale = whitened.norm(dim=1, keepdim=True).clamp_min(TINY)
        self.learnt = [whitened / self._scale]
        if bias is not None:
            shift = 0.0 if mean is None else rows @ mean
            self.learnt.append((bias.detach() + shift) / self._scale[:, 0])
        self.rate = RATE / math.sqrt(rows.shape[1])

    def take_gradient(self) -> None:
        """Turn the parameters' gradients into those of what is learnt."""
        given = [one.grad for one in self.parameters if one.grad is not None]
        if len(given) < len(self.parameters):
            return  # nothing that is compared depends on this layer
        slopes = [one.reshape(len(one), -1).to(self._inverse.dtype) for one in given]
        if self._mean is not None:
            slopes[0] = slopes[0] - slopes[1] * self._mean
        self.learnt[0].grad = _times(slopes[0], self._inverse) * self._scale
        for learnt, slope in zip(self.learnt[1:], slopes[1:], strict=True):
            learnt.grad = (slope * self._scale)[:, 0]

    @torch.no_grad()
    def write(self) -> None:
        """Give the parameters the values that what is learnt stands for."""
        rows = _times(self.learnt[0] * self._scale, self._inverse)
        self.parameters[0].copy_(rows.reshape(self.parameters[0].shape))
        for parameter, learnt in zip(self.parameters[1:], self.learnt[1:], strict=True):
            shift = 0.0 if self._mean is None else rows @ self._mean
            parameter.copy_(learnt * self._scale[:, 0] - shift)


def _times(rows: Tensor, inverse: Tensor) -> Tensor:
    return rows @ inverse if inverse.dim() else rows * inverse


def _coordinates(network: nn.Module, structure: Structure, seen: _Seen) -> Iterator[_Coordinates]:
    weights = dict(network.named_parameters())
    for layer in structure.layers:
        if layer.weight not in seen.powers:
            continue  # it is not the network's own parameter, or does not run
        weight, bias = weights[layer.weight], weights.get(f"{layer.name}.bias")
        moments = seen.moments.get(layer.weight)
        if moments is None:
            power = max(seen.powers[layer.weight], TINY) ** 0.5
            # The outputs of a transposed layer are no rows: its bias is learnt as it is.
            own = bias if layer.in_dim else None
            yield _Coordinates(weight, own, None, torch.tensor(1 / power, device=weight.device))
            continue
        mean = None if bias is None else moments.mean
        second = moments.covariance
        if mean is None:
            second = second + torch.outer(moments.mean, moments.mean)
        yield _Coordinates(weight, bias, None if mean is None else mean.float(), _root(second))


def _root(second: Tensor) -> Tensor:
    """Return the inverse of a damped matrix's square root."""
    second = second.clone()
    second.diagonal().add_(max(DAMPING * float(second.diagonal().mean()), TINY))
    values, vectors = torch.linalg.eigh(second)
    root: Tensor = (vectors / values.sqrt()) @ vectors.T
    return root.float()
