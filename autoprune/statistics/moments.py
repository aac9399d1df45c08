"""First and second moments of a layer's input patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from autoprune.core.precision import at_least_single
from autoprune.structure.groups import LayerSpec

# Above this number of inputs per patch (a 512-channel 3x3 convolution has 4,608) only the diagonal
# is kept: the full matrix would take more than 200 MB and its factorisation minutes.
LARGEST_PATCH = 5000


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a layer's input patches x, columns as in `matrix_of` its weight.

    Attributes:
        count: number of patches.
        mean: E[x].
        covariance: E[(x - mean)(x - mean)ᵀ]; only its diagonal where there are more inputs than
            `LARGEST_PATCH`. For a transposed layer it is E[x xᵀ]: each kernel tap adds a different
            mean, which one bias cannot compensate.
    """

    count: int
    mean: Float64[Tensor, " inputs"]
    covariance: Float64[Tensor, "inputs inputs"] | Float64[Tensor, " inputs"]

    @property
    def is_full(self) -> bool:
        """Whether covariances between different inputs are known."""
        return self.covariance.dim() == 2


class MomentSum:
    """Accumulates the moments of one layer's input patches, batch by batch, in float64.

    Attributes:
        count: number of patches so far.
    """

    def __init__(self, layer: LayerSpec, inputs: int, device: torch.device) -> None:
        d = inputs
        shape = (d, d) if d <= LARGEST_PATCH else (d,)
        self._layer = layer
        self.count = 0
        # Inputs are shifted: products of large values would lose the covariance to rounding.
        self._origin = torch.zeros(d, device=device)
        self._sum = torch.zeros(d, dtype=torch.float64, device=device)
        self._products = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(
        self, source: Float[Tensor, "samples ..."], positions: int, generator: torch.Generator
    ) -> None:
        """Add a batch of the layer's inputs.

        Args:
            source: input of the layer.
            positions: number of positions to sample per sample.
            generator: source of the random positions.
        """
        chosen = draw_positions(self._layer, len(source), positions, generator)
        rows = at_least_single(patches(self._layer, source, chosen))
        if self.count == 0:
            self._origin = rows.mean(0)
        rows = rows - self._origin
        self.count += len(rows)
        self._sum += rows.sum(0, dtype=torch.float64)
        if self._products.dim() == 2:
            self._products += rows.T @ rows
        else:
            self._products += rows.square().sum(0, dtype=torch.float64)

    def moments(self) -> Moments:
        """Return the moments of all patches added so far."""
        mean = self._sum / self.count
        second = self._products / self.count
        covariance = second - _square(mean, second.dim())
        mean = mean + self._origin
        if self._layer.is_transposed:
            covariance = covariance + _square(mean, second.dim())
        return Moments(self.count, mean, covariance)


def _square(
    mean: Float64[Tensor, " inputs"], dims: int
) -> Float64[Tensor, "inputs inputs"] | Float64[Tensor, " inputs"]:
    return torch.outer(mean, mean) if dims == 2 else mean.square()


def matrix_of(
    layer: LayerSpec, weight: Float[Tensor, "first second *kernel"]
) -> Float[Tensor, "outputs inputs"]:
    """Return a weight as the matrix that is multiplied with the layer's patches.

    Columns are input channels times kernel taps, and rows are output channels. In a transposed
    layer patches are single pixels: columns are input channels, and rows are output channels times
    kernel taps, the contribution of a pixel to the output at every tap.
    """
    return weight.flatten(1).T if layer.is_transposed else weight.flatten(1)


def is_laid_out(layer: LayerSpec, source: Shaped[Tensor, " ..."]) -> bool:
    """Whether a layer's input has the positions per sample of the layer's first traced call.

    False at another resolution, and where the first dimension is not that of the samples.
    """
    if layer.kernel_size:
        return source.shape[2:] == layer.input_shape[1:]
    return source.shape[1:-1] == layer.input_shape[:-1]


def draw_positions(
    layer: LayerSpec, samples: int, count: int, generator: torch.Generator
) -> Int[Tensor, "{samples} positions"]:
    """Return random positions of a layer, as flat indices into `LayerSpec.space`.

    Args:
        layer: the layer.
        samples: number of samples.
        count: number of positions per sample; all positions are returned if there are fewer.
        generator: source of randomness.
    """
    total = math.prod(layer.space)
    if total <= count:
        return torch.arange(total).expand(samples, total)
    return torch.randint(total, (samples, count), generator=generator)


def patches(
    layer: LayerSpec,
    source: Shaped[Tensor, "samples ..."],
    positions: Int[Tensor, "samples positions"],
) -> Shaped[Tensor, "samples*positions inputs"]:
    """Return a layer's input patches at some positions, without unfolding all of them.

    Args:
        layer: a convolution or linear layer.
        source: its input, channels first for a convolution and last for a linear layer.
        positions: flat indices into `LayerSpec.space`.

    Returns:
        One row per patch, with columns as in `matrix_of` the weight of a layer without groups.
    """
    if not layer.kernel_size:
        return _rows(source.reshape(len(source), -1, source.shape[-1]), positions)
    if layer.is_transposed:
        return _rows(source.flatten(2).transpose(1, 2), positions)
    amounts = [p for padding in reversed(layer.padding) for p in (padding, padding)]
    pixels = F.pad(source, amounts).movedim(1, -1)
    taken = _pixel_numbers(layer, pixels.shape[:-1], positions).to(source.device)
    # Gathering whole pixels, with all their channels, is far cheaper than gathering single values.
    rows = pixels.flatten(0, -2).index_select(0, taken.flatten())
    return rows.reshape(*taken.shape, -1).transpose(1, 2).flatten(1)


def _pixel_numbers(
    layer: LayerSpec, shape: tuple[int, ...], positions: Int[Tensor, "samples positions"]
) -> Int[Tensor, "samples*positions taps"]:
    """Return flat indices of the pixels under the kernel at every position.

    Args:
        layer: a convolution.
        shape: samples and spatial extents of the padded input.
        positions: flat indices into `LayerSpec.space`.
    """
    places = torch.unravel_index(positions, layer.space)
    taps = torch.unravel_index(torch.arange(math.prod(layer.kernel_size)), layer.kernel_size)
    numbers = torch.arange(shape[0])[:, None, None]
    for i, extent in enumerate(shape[1:]):
        under = places[i][..., None] * layer.stride[i] + taps[i] * layer.dilation[i]
        numbers = numbers * extent + under
    return numbers.flatten(0, 1)


def outputs_at(
    layer: LayerSpec,
    out: Shaped[Tensor, "samples ..."],
    positions: Int[Tensor, "samples positions"],
) -> Shaped[Tensor, "samples*positions outputs"]:
    """Return a layer's outputs at some positions, in the order of `patches`."""
    if not layer.kernel_size:
        return _rows(out.reshape(len(out), -1, out.shape[-1]), positions)
    return _rows(out.flatten(2).transpose(1, 2), positions)


def _rows(
    values: Shaped[Tensor, "samples places channels"], positions: Int[Tensor, "samples positions"]
) -> Shaped[Tensor, "samples*positions channels"]:
    sample = torch.arange(len(values), device=values.device)[:, None]
    return values[sample, positions.to(values.device)].flatten(0, 1)
