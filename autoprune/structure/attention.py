"""Attention that can be cut: PyTorch's module computes its sizes from the width of its input.

`nn.MultiheadAttention` asks for as many queries, keys and values as the network's stream is wide,
and for heads that divide them. `SizedAttention` is the same module, with the same tensors, that
reads its sizes off its weights and the number of its heads.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class SizedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with any number of heads, and any widths of queries and values.

    Self-attention, or with projections apart (`kdim`, `vdim`). The scores keep the scale of the
    dense network.
    """

    scale: float

    @property
    def head_dim(self) -> int:
        """The width of the values in a head."""
        return int(self.out_proj.weight.shape[1] // self.num_heads)

    def forward(
        self,
        query: Float[Tensor, ...],
        key: Float[Tensor, ...],
        value: Float[Tensor, ...],
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention's output and its weights; arguments are those of PyTorch's module.

        `is_causal` is a hint that PyTorch's module uses together with `attn_mask`, which decides.
        """
        projected = self._project(query, key, value)
        is_batched = query.dim() == 3
        if not is_batched:
            projected = [one[None] for one in projected]
        elif not self.batch_first:
            projected = [one.transpose(0, 1) for one in projected]
        q, k, v = (one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in projected)
        mask = _added(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.mT
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = F.dropout(weights, self.dropout, self.training) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            dropout = self.dropout if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not is_batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        packed, bias = self.in_proj_weight, self.in_proj_bias
        if packed is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            values = self.out_proj.weight.shape[1]
            queries = (len(packed) - values) // 2
            sizes = [queries, queries, values]
            if query is key and key is value:
                return list(F.linear(query, packed, bias).split(sizes, -1))
            weights = list(packed.split(sizes))
        biases = [None] * 3 if bias is None else bias.split([len(one) for one in weights])
        inputs = (query, key, value)
        return [F.linear(*one) for one in zip(inputs, weights, biases, strict=True)]


def _added(
    mask: Tensor | None, padding: Tensor | None, query: Float[Tensor, "batch heads length width"]
) -> Float[Tensor, ...] | None:
    """Return what masks add to the scores; a mask of three dimensions has one for every head."""
    parts = []
    if mask is not None:
        per_head = mask.unflatten(0, (len(query), -1)) if mask.dim() == 3 else mask
        parts.append(_scores(per_head, query))
    if padding is not None:
        parts.append(_scores(padding.reshape(len(query), 1, 1, -1), query))
    return sum(parts[1:], parts[0]) if parts else None


def _scores(
    mask: Bool[Tensor, "*shape"] | Float[Tensor, "*shape"], query: Tensor
) -> Float[Tensor, "*shape"]:
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)


def is_sizable(module: nn.Module) -> bool:
    """Say whether a module is attention that a class of ours can stand for.

    It is PyTorch's own, with nothing added to keys and values, or torchvision's in windows.
    """
    if type(module) is nn.MultiheadAttention:
        return module.bias_k is None and not module.add_zero_attn
    windows = _windows()
    return windows is not None and type(module) in windows.SIZED


def read_own_sizes(module: nn.Module) -> None:
    """Make a module one that reads its sizes off its weights, in place; leave others alone."""
    if not is_sizable(module):
        return
    if not isinstance(module, nn.MultiheadAttention):
        _windows().read_own_sizes(module)
        return
    own: Any = module
    own.scale = vars(module).pop("head_dim") ** -0.5
    own.__class__ = SizedAttention
    # PyTorch's encoder layers would hand its weights to a fused kernel.
    own._qkv_same_embed_dim = False


def _windows() -> Any:
    """Return our module about attention in windows; None unless torchvision's is in use."""
    if "torchvision.models.swin_transformer" not in sys.modules:
        return None
    from autoprune.structure import window_attention

    return window_attention
