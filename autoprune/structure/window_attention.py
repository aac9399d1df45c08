"""Attention in windows that can be cut: torchvision's computes its sizes from its input's width.

`shifted_window_attention` asks for as many queries, keys and values as the network's stream is
wide, whatever the weights hold. The classes here are torchvision's two modules (Swin Transformer
and its second version), with the same tensors, that read their sizes off their weights and the
number of their heads. This module imports torchvision.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

# Added to the scores of places that are next to each other only because the image was shifted.
APART = -100.0
# The largest factor of cosines (the module learns its logarithm).
LARGEST_SCALE = 100.0


class SizedWindowAttention(ShiftedWindowAttention):  # type: ignore[misc]
    """Self-attention inside windows, with any number of heads and widths of queries and values.

    The scores keep the scale of the dense network.
    """

    scale: float

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch height width channels"]:
        """Return what every place gets from the others in its window."""
        size = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -size[1] % self.window_size[1], 0, -size[0] % self.window_size[0]))
        padded = (x.shape[1], x.shape[2])
        # A single window needs no shift.
        shift = [
            0 if window >= length else by
            for window, length, by in zip(self.window_size, padded, self.shift_size, strict=True)
        ]
        if any(shift):
            x = x.roll([-by for by in shift], (1, 2))
        queries, keys, values = self._heads(self._windows(x))
        scores = self._scores(queries, keys) + self.get_relative_position_bias()
        if any(shift):
            mask = self._mask(padded, shift, scores)
            scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        out = self.proj((weights @ values).transpose(1, 2).flatten(2))
        out = self._image(F.dropout(out, self.dropout, self.training), padded)
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out[:, : size[0], : size[1]].contiguous()

    def _windows(self, x: Tensor) -> Float[Tensor, "windows places channels"]:
        high, wide = self.window_size
        parted = x.unflatten(2, (-1, wide)).unflatten(1, (-1, high))
        windows: Tensor = parted.transpose(2, 3).flatten(3, 4).flatten(0, 2)
        return windows

    def _image(
        self, x: Float[Tensor, "windows places channels"], size: tuple[int, int]
    ) -> Float[Tensor, "batch height width channels"]:
        high, wide = self.window_size
        parted = x.unflatten(1, (high, wide)).unflatten(0, (-1, size[0] // high, size[1] // wide))
        image: Tensor = parted.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return image

    def _heads(self, x: Tensor) -> list[Float[Tensor, "windows heads places width"]]:
        values = self.proj.weight.shape[1]
        queries = (len(self.qkv.weight) - values) // 2
        projected = self.qkv(x).split([queries, queries, values], -1)
        return [one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in projected]

    def _scores(
        self, queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "windows heads places places"]:
        return (queries * self.scale) @ keys.mT

    def _mask(
        self, size: tuple[int, int], shift: list[int], like: Tensor
    ) -> Float[Tensor, "windows places places"]:
        """Return what keeps places apart that a shift has brought into one window."""
        regions = torch.zeros((), device=like.device)
        for dim, (length, window, by) in enumerate(zip(size, self.window_size, shift, strict=True)):
            place = torch.arange(length, device=like.device)
            own = (place >= length - window).int() + (place >= length - by).int()
            regions = regions * 3 + own.unsqueeze(1 - dim)
        parts = self._windows(regions[None, :, :, None])[..., 0]
        return (parts[:, None] != parts[:, :, None]).to(like.dtype) * APART


class SizedWindowAttentionV2(SizedWindowAttention, ShiftedWindowAttentionV2):  # type: ignore[misc]
    """The same with scores that are scaled cosines, and biases from a small network."""

    def _scores(
        self, queries: Tensor, keys: Tensor
    ) -> Float[Tensor, "windows heads places places"]:
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT
        scores: Tensor = cosines * self.logit_scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        return scores


SIZED = {
    ShiftedWindowAttention: SizedWindowAttention,
    ShiftedWindowAttentionV2: SizedWindowAttentionV2,
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
