"""The table of rules: how each ATen operator passes channel labels on.

To support another operator, add its name to the set of a family below, or write a rule in
`tensor_rules` (or a MAC formula in `products`) and add a line to `RULES`; kinds of layers are
listed in `structure/layers.py`. An operator without a rule is decomposed into smaller ones. If that
is not possible, it is assumed to mix everything, and the channels that enter it cannot be cut.
"""

from __future__ import annotations

from typing import Any

import torch

from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.tracing.call import Rule
from autoprune.structure.tracing.layer_rules import (
    batch_norm,
    group_norm,
    layer,
    layer_norm,
    lookup,
)
from autoprune.structure.tracing.products import FORMULAS, multiplies, product
from autoprune.structure.tracing.tensor_rules import (
    along_dim,
    concatenation,
    creation,
    halves,
    identity,
    movement,
    pad,
    patches,
    pointwise,
    reduction,
    reshape,
    sampling,
    spatial,
    summed_patches,
    triangle,
    verdict,
    writing,
)

# Element-wise operators, besides those that PyTorch tags as such.
POINTWISE = {
    *("hardswish", "leaky_relu", "log_sigmoid", "rrelu_with_noise", "_prelu_kernel"),
    *("floor_divide", "rsub", "copy", "masked_fill", "native_dropout", "complex", "polar"),
}
IDENTITIES = {
    *("clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as"),
    "lift_fresh",
    # The result has the shape of the argument, whatever its values are.
    *("fill", "zero", "zeros_like", "ones_like", "full_like", "empty_like"),
    *("rand_like", "randn_like", "bernoulli", "uniform", "normal", "exponential"),
}
RESHAPES = {
    *("view", "_unsafe_view", "_reshape_alias", "reshape", "view_as", "reshape_as"),
    *("flatten", "unflatten", "squeeze", "unsqueeze"),
}
MOVEMENTS = {
    *("permute", "transpose", "t", "swapaxes", "movedim", "diagonal"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsafe_split"),
    *("expand", "expand_as", "repeat", "tile", "repeat_interleave", "unfold"),
    *("roll", "flip", "rot90", "index_select", "index", "gather"),
    *("stack", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
}
WRITING = {
    *("index_put", "index_copy", "index_fill", "scatter"),
    *("slice_scatter", "select_scatter", "diagonal_scatter"),
}
SPATIAL = (
    *("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool", "max_unpool"),
    *("upsample_", "_upsample_", "reflection_pad", "replication_pad"),
)
REDUCTIONS = {
    *("mean", "sum", "nansum", "prod", "logsumexp", "count_nonzero"),
    *("amax", "amin", "aminmax", "max", "min", "argmax", "argmin"),
    *("median", "nanmedian", "mode", "kthvalue"),
    *("var", "std", "var_mean", "std_mean", "norm", "linalg_vector_norm"),
}
ALONG_DIM = {
    *("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax"),
    *("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "topk"),
    *("_fft_c2c", "_fft_r2c", "_fft_c2r"),
}
SAMPLINGS = {"grid_sampler_2d", "grid_sampler_3d", "torchvision.roi_align", "torchvision.roi_pool"}
CREATIONS = {
    *("zeros", "ones", "full", "empty", "empty_strided", "scalar_tensor"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys(LAYER_KINDS, layer),
    **dict.fromkeys(IDENTITIES, identity),
    **dict.fromkeys(RESHAPES, reshape),
    **dict.fromkeys(MOVEMENTS, movement),
    **dict.fromkeys(WRITING, writing),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(ALONG_DIM, along_dim),
    **dict.fromkeys(("tril", "triu"), triangle),
    **dict.fromkeys(CREATIONS, creation),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(SAMPLINGS, sampling),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    **dict.fromkeys(FORMULAS, product),
    **dict.fromkeys(("all", "any", "_is_all_true", "_is_any_true"), verdict),
    "embedding": lookup,
    "glu": halves,
    "im2col": patches,
    "col2im": summed_patches,
}


def find_rule(name: str, func: Any) -> Rule | None:
    """Return the rule for an operator; None if it should be decomposed."""
    if name in RULES:
        return RULES[name]
    if name.startswith(SPATIAL):
        return spatial
    if multiplies(func):
        return product
    return pointwise if _is_tagged(name, func) else None


def _is_tagged(name: str, func: Any) -> bool:
    """Say whether PyTorch tags an operator, or its twin that is not in-place, as element-wise."""
    twin = getattr(getattr(torch.ops.aten, name, None), func._overloadname, func)
    return torch.Tag.pointwise in {*func.tags, *twin.tags}
