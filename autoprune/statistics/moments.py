"""First and second moments of a layer's input patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.structure.groups import LayerSpec

# With more inputs per patch than this (a 512-channel 3x3 convolution has 4,608) only the diagonal
# is kept: the full matrix would take more than 200 MB and its factorisation minutes.
LARGEST_PATCH = 5000


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a layer's input patches x, columns as in `weight.reshape(out, -1)`.

    Attributes:
        count: patches seen.
        mean: E[x], shape (d,), float64.
        covariance: E[(x - mean)(x - mean)ᵀ], shape (d, d), float64; its diagonal alone, shape (d,),
            where d exceeds `LARGEST_PATCH`.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @property
    def is_full(self) -> bool:
        """Whether covariances between different inputs are known."""
        return self.covariance.dim() == 2


class MomentSum:
    """Accumulates the moments of one layer's input patches, batch by batch, in float64."""

    def __init__(self, layer: LayerSpec, inputs: int, device: torch.device) -> None:
        d = inputs
        shape = (d, d) if d <= LARGEST_PATCH else (d,)
        self._layer = layer
        self._count = 0
        self._sum = torch.zeros(d, dtype=torch.float64, device=device)
        self._products = torch.zeros(shape, dtype=torch.float64, device=device)

    def add(self, source: Tensor, positions: int, generator: torch.Generator) -> None:
        """Add a batch of the layer's inputs, at so many random output positions per sample."""
        rows = patches(self._layer, source, positions, generator).float()
        self._count += len(rows)
        self._sum += rows.sum(0, dtype=torch.float64)
        if self._products.dim() == 2:
            self._products += rows.T @ rows
        else:
            self._products += rows.square().sum(0, dtype=torch.float64)

    def moments(self) -> Moments:
        """Return what was gathered."""
        mean = self._sum / self._count
        second = self._products / self._count
        square = torch.outer(mean, mean) if second.dim() == 2 else mean.square()
        return Moments(self._count, mean, second - square)


def patches(
    layer: LayerSpec, source: Tensor, positions: int, generator: torch.Generator
) -> Tensor:
    """Return input patches at random output positions, sampled before anything is unfolded.

    Args:
        layer: a convolution or linear layer.
        source: its input, (n, channels, …space) or (n, …, features).
        positions: patches per sample (all of them where there are fewer).
        generator: of the positions.

    Returns:
        (n x positions, d), columns as in `weight.reshape(out, -1)`.
    """
    if not layer.kernel_size:
        rows = source.reshape(len(source), -1, source.shape[-1])
        return _sampled(rows, positions, generator).reshape(-1, source.shape[-1])
    windows = _windows(layer, source)
    n, channels = windows.shape[:2]
    rank = len(layer.kernel_size)
    space = windows.shape[2 : 2 + rank]
    total = int(torch.tensor(space).prod())
    chosen = torch.randint(total, (n, min(positions, total)), generator=generator)
    if total <= positions:
        chosen = torch.arange(total).expand(n, total)
    index = torch.unravel_index(chosen.to(source.device), space)
    sample = torch.arange(n, device=source.device)[:, None]
    # Advanced indices on both sides of the channels put (n, positions) first.
    return windows.movedim(1, 1 + rank)[(sample, *index)].reshape(-1, channels * _size(layer))


def _size(layer: LayerSpec) -> int:
    return int(torch.tensor(layer.kernel_size).prod())


def _sampled(rows: Tensor, positions: int, generator: torch.Generator) -> Tensor:
    if rows.shape[1] <= positions:
        return rows
    chosen = torch.randint(rows.shape[1], (positions,), generator=generator)
    return rows[:, chosen.to(rows.device)]


def _windows(layer: LayerSpec, source: Tensor) -> Tensor:
    """Return every patch as a view: (n, channels, …output space, …kernel)."""
    rank = len(layer.kernel_size)
    amounts = [p for padding in reversed(layer.padding) for p in (padding, padding)]
    padded = torch.nn.functional.pad(source, amounts).contiguous()
    strides, out, steps, taps = padded.stride(), [], [], []
    for i in range(rank):
        reach = layer.dilation[i] * (layer.kernel_size[i] - 1) + 1
        out.append((padded.shape[2 + i] - reach) // layer.stride[i] + 1)
        steps.append(strides[2 + i] * layer.stride[i])
        taps.append(strides[2 + i] * layer.dilation[i])
    size = (*padded.shape[:2], *out, *layer.kernel_size)
    return padded.as_strided(size, (*strides[:2], *steps, *taps))
