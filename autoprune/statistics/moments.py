"""First and second moments of a layer's input patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.precision import at_least_single
from autoprune.structure.groups import LayerSpec

# With more inputs per patch than this (a 512-channel 3x3 convolution has 4,608) only the diagonal
# is kept: the full matrix would take more than 200 MB and its factorisation minutes.
LARGEST_PATCH = 5000


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a layer's input patches x, columns as in `matrix_of` its weight.

    Attributes:
        count: patches seen.
        mean: E[x], shape (d,), float64.
        covariance: E[(x - mean)(x - mean)ᵀ], shape (d, d), float64; its diagonal alone, shape (d,),
            where d exceeds `LARGEST_PATCH`. Of a transposed layer it is E[x xᵀ]: each of its taps
            adds a mean of its own, and one bias cannot take them all.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @property
    def is_full(self) -> bool:
        """Whether covariances between different inputs are known."""
        return self.covariance.dim() == 2


class MomentSum:
    """Accumulates the moments of one layer's input patches, batch by batch, in float64.

    Attributes:
        count: patches seen.
    """

    def __init__(self, layer: LayerSpec, inputs: int, device: torch.device) -> None:
        d = inputs
        shape = (d, d) if d <= LARGEST_PATCH else (d,)
        self._layer = layer
        self.count = 0
        # Products of inputs far from zero would lose their covariance to rounding.
        self._origin = torch.zeros(d, device=device)
        self._sum = torch.zeros(d, dtype=torch.float64, device=device)
        self._products = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, source: Tensor, positions: int, generator: torch.Generator) -> None:
        """Add a batch of the layer's inputs, at so many random output positions per sample."""
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
        """Return what was gathered."""
        mean = self._sum / self.count
        second = self._products / self.count
        covariance = second - _square(mean, second.dim())
        mean = mean + self._origin
        if self._layer.is_transposed:
            covariance = covariance + _square(mean, second.dim())
        return Moments(self.count, mean, covariance)


def _square(mean: Tensor, dims: int) -> Tensor:
    return torch.outer(mean, mean) if dims == 2 else mean.square()


def matrix_of(layer: LayerSpec, weight: Tensor) -> Tensor:
    """Return a weight as the matrix that is multiplied with the layer's patches, (rows, d).

    Its rows are the outputs; those of a transposed layer, whose patches are single pixels, are what
    a pixel adds at every tap, (outputs x taps).
    """
    return weight.flatten(1).T if layer.is_transposed else weight.flatten(1)


def is_laid_out(layer: LayerSpec, source: Tensor) -> bool:
    """Whether a layer's input has the positions that its first traced call had in a sample.

    It has not at another resolution, nor where the first dimension is not the samples.
    """
    if layer.kernel_size:
        return source.shape[2:] == layer.input_shape[1:]
    return source.shape[1:-1] == layer.input_shape[:-1]


def draw_positions(
    layer: LayerSpec, samples: int, count: int, generator: torch.Generator
) -> Tensor:
    """Return random positions of a layer (`LayerSpec.space`), (samples, count or all there are)."""
    total = math.prod(layer.space)
    if total <= count:
        return torch.arange(total).expand(samples, total)
    return torch.randint(total, (samples, count), generator=generator)


def patches(layer: LayerSpec, source: Tensor, positions: Tensor) -> Tensor:
    """Return a layer's input patches, gathered before anything is unfolded.

    Args:
        layer: a convolution or linear layer.
        source: its input, (n, channels, …space) or (n, …, features).
        positions: flat, (n, p).

    Returns:
        (n x p, d), columns as in `matrix_of` the weight of a layer without groups.
    """
    if not layer.kernel_size:
        return _rows(source.reshape(len(source), -1, source.shape[-1]), positions)
    if layer.is_transposed:
        return _rows(source.flatten(2).transpose(1, 2), positions)
    amounts = [p for padding in reversed(layer.padding) for p in (padding, padding)]
    pixels = F.pad(source, amounts).movedim(1, -1)
    taken = _pixel_numbers(layer, pixels.shape[:-1], positions).to(source.device)
    # Whole pixels, all channels at once, are far cheaper to gather than single values.
    rows = pixels.flatten(0, -2).index_select(0, taken.flatten())
    return rows.reshape(*taken.shape, -1).transpose(1, 2).flatten(1)


def _pixel_numbers(layer: LayerSpec, shape: tuple[int, ...], positions: Tensor) -> Tensor:
    """Return the pixels under the kernel at every position, (n x p, taps)."""
    places = torch.unravel_index(positions, layer.space)
    taps = torch.unravel_index(torch.arange(math.prod(layer.kernel_size)), layer.kernel_size)
    numbers = torch.arange(shape[0])[:, None, None]
    for i, extent in enumerate(shape[1:]):
        under = places[i][..., None] * layer.stride[i] + taps[i] * layer.dilation[i]
        numbers = numbers * extent + under
    return numbers.flatten(0, 1)


def outputs_at(layer: LayerSpec, out: Tensor, positions: Tensor) -> Tensor:
    """Return a layer's outputs at the same positions, (n x p, channels)."""
    if not layer.kernel_size:
        return _rows(out.reshape(len(out), -1, out.shape[-1]), positions)
    return _rows(out.flatten(2).transpose(1, 2), positions)


def _rows(values: Tensor, positions: Tensor) -> Tensor:
    sample = torch.arange(len(values), device=values.device)[:, None]
    return values[sample, positions.to(values.device)].flatten(0, 1)
