"""What each ATen operator does to channel labels: one small rule per family, in one table.

An operator without a rule is decomposed into smaller ones; if it cannot be, it is taken to mix
everything, and the channels that enter it stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch

from autoprune.structure.call import Rule
from autoprune.structure.layer_rules import (
    batch_norm,
    convolution,
    group_norm,
    layer_norm,
    linear,
    transposed_convolution,
)
from autoprune.structure.tensor_rules import (
    along_dim,
    concatenation,
    creation,
    identity,
    movement,
    pad,
    pointwise,
    reduction,
    reshape,
    spatial,
)

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
IDENTITIES = {"clone", "contiguous", "detach", "alias", "to", "_to_copy", "lift_fresh", "type_as"}
RESHAPES = {
    *("view", "_unsafe_view", "reshape", "view_as", "reshape_as", "flatten", "unflatten"),
    *("squeeze", "unsqueeze"),
}
MOVEMENTS = {
    *("permute", "transpose", "t", "swapaxes", "movedim"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split"),
    *("expand", "expand_as", "repeat", "tile", "roll", "flip", "index_select", "index"),
    *("stack", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
}
SPATIAL = (
    *("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool"),
    *("upsample_", "_upsample_", "reflection_pad", "replication_pad"),
)
REDUCTIONS = {
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "norm",
    "linalg_vector_norm",
}
ALONG_DIM = {
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
    "cumsum",
    "sort",
    "topk",
    "argmax",
}
CREATIONS = {"zeros", "new_zeros", "zeros_like"}

RULES: dict[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(TRANSPOSED, transposed_convolution),
    **dict.fromkeys(IDENTITIES, identity),
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(ALONG_DIM, along_dim),
    **dict.fromkeys(CREATIONS, creation),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    "linear": linear,
    "_prelu_kernel": pointwise,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
}


def find_rule(name: str, func: Any) -> Rule | None:
    """Return the rule for an operator, None if it should be decomposed."""
    if name in RULES:
        return RULES[name]
    if name.startswith(SPATIAL):
        return spatial
    return pointwise if torch.Tag.pointwise in func.tags else None
