"""Attention in windows that can be cut: torchvision's computes its sizes from its input's width.

`shifted_window_attention` asks for as many queries, keys and values as the network's stream is
wide, whatever the weights hold. The classes here are torchvision's three modules (Swin Transformer,
its second version, and that for videos), with the same tensors, that read their sizes off their
weights and the number of their heads. This module imports torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

# Added to the scores of places that are next to each other only because the image was shifted.
APART = -100.0
# The largest factor of cosines (the module learns its logarithm).
LARGEST_SCALE = 100.0


class _Sized(nn.Module):
    """Self-attention inside windows, with any number of heads and widths of queries and values.

    The scores keep the scale of the dense network. Everything else is torchvision's module's.
    """

    scale: float
    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    get_relative_position_bias: Callable[..., Tensor]

    def forward(
        self, x: Float[Tensor, "batch *lengths channels"]
    ) -> Float[Tensor, "batch *lengths channels"]:
        """Return what every place gets from the others in its window."""
        lengths = x.shape[1:-1]
        dims = tuple(range(1, x.dim() - 1))
        window = self._window(lengths)
        missing = [-length % own for length, own in zip(lengths, window, strict=True)]
        x = F.pad(x, (0, 0, *(one for by in reversed(missing) for one in (0, by))))
        padded = x.shape[1:-1]
        # A single window needs no shift.
        shift = [
            0 if own >= length else by
            for own, length, by in zip(window, padded, self.shift_size, strict=True)
        ]
        if any(shift):
            x = x.roll([-by for by in shift], dims)
        queries, keys, values = self._heads(_in_windows(x, window))
        scores = self._scores(queries, keys) + self._biases(window)
        if any(shift):
            mask = _mask(padded, window, shift, scores)
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        out = self.proj((weights @ values).transpose(1, 2).flatten(2))
        out = _put_together(F.dropout(out, self.dropout, self.training), padded, window)
        if any(shift):
            out = out.roll(shift, dims)
        for dim, length in zip(dims, lengths, strict=True):
            out = out.narrow(dim, 0, length)
        return out.contiguous()

    def _window(self, lengths: Sequence[int]) -> list[int]:
        """Return the lengths of a window."""
        return list(self.window_size)

    def _biases(self, window: list[int]) -> Float[Tensor, "1 heads places places"]:
        return self.get_relative_position_bias()

    def _heads(self, x: Tensor) -> list[Float[Tensor, "windows heads places width"]]:
        values = self.proj.weight.shape[1]
        queries = (len(self.qkv.weight) - values) // 2
        projected = self.qkv(x).split([queries, queries, values], -1)
        return [one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in projected]

    def _scores(
        self, queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "windows heads places places"]:
        return (queries * self.scale) @ keys.mT


class SizedWindowAttention(_Sized, ShiftedWindowAttention):  # type: ignore[misc]
    """Attention that can be cut in the windows of images."""


class SizedWindowAttentionV2(_Sized, ShiftedWindowAttentionV2):  # type: ignore[misc]
    """The same with scores that are scaled cosines, and biases from a small network."""

    logit_scale: Tensor

    def _scores(
        self, queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "windows heads places places"]:
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT
        return cosines * self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp()


class SizedWindowAttention3d(_Sized, ShiftedWindowAttention3d):  # type: ignore[misc]
    """The same for videos, whose windows are no longer than what they are laid over."""

    def _window(self, lengths: Sequence[int]) -> list[int]:
        return [min(pair) for pair in zip(self.window_size, lengths, strict=True)]

    def _biases(self, window: list[int]) -> Tensor:
        return self.get_relative_position_bias(window)


SIZED = {
    ShiftedWindowAttention: SizedWindowAttention,
    ShiftedWindowAttentionV2: SizedWindowAttentionV2,
    ShiftedWindowAttention3d: SizedWindowAttention3d,
}
"""The classes by those that they replace."""


def read_own_sizes(module: nn.Module) -> None:
    """Make one of torchvision's modules one that can be cut, in place."""
    own: Any = module
    width = own.qkv.out_features // 3
    own.scale = (width // own.num_heads) ** -0.5
    own.__class__ = SIZED[type(module)]
    if isinstance(own, ShiftedWindowAttentionV2) and own.qkv.bias is not None:
        # There, keys have no bias; torchvision's module ignores what stands here.
        with torch.no_grad():
            own.qkv.bias[width : 2 * width] = 0.0


def _in_windows(
    x: Float[Tensor, "batch *lengths channels"], window: Sequence[int]
) -> Float[Tensor, "windows places channels"]:
    rank = len(window)
    for dim in range(rank, 0, -1):
        x = x.unflatten(dim, (-1, window[dim - 1]))
    numbers, places = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return x.permute(0, *numbers, *places, -1).flatten(rank + 1, 2 * rank).flatten(0, rank)


def _put_together(
    x: Float[Tensor, "windows places channels"], lengths: Sequence[int], window: Sequence[int]
) -> Float[Tensor, "batch *lengths channels"]:
    """Undo `_in_windows`."""
    rank = len(window)
    numbers = [length // own for length, own in zip(lengths, window, strict=True)]
    x = x.unflatten(1, tuple(window)).unflatten(0, (-1, *numbers))
    pairs = (one for dim in range(1, rank + 1) for one in (dim, dim + rank))
    x = x.permute(0, *pairs, -1)
    for dim in range(1, rank + 1):
        x = x.flatten(dim, dim + 1)
    return x


def _mask(
    lengths: Sequence[int], window: Sequence[int], shift: Sequence[int], like: Tensor
) -> Float[Tensor, "windows places places"]:
    """Return what keeps places apart that a shift has brought into one window."""
    regions = torch.zeros((), device=like.device)
    for length, own, by in zip(lengths, window, shift, strict=True):
        place = torch.arange(length, device=like.device)
        region = (place >= length - own).int() + (place >= length - by).int()
        regions = regions[..., None] * 3 + region
    parts = _in_windows(regions[None, ..., None], window)[..., 0]
    return (parts[:, None] != parts[:, :, None]).to(like.dtype) * APART
