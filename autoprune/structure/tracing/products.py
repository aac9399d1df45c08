"""MACs of operators that are not layers: products of activations, and fused kernels.

PyTorch's registry has formulas for plain matrix products. This module adds what it lacks, by the
operator that the network calls and not by the kernel that runs, so that counts are the same on
every device: attention counts as its two matrix products, a recurrent network as the products with
its weight matrices at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from autoprune.structure.tracing.call import Call, Recorder, unknown
from autoprune.structure.tracing.mixing import attention as fused_attention
from autoprune.structure.tracing.mixing import matrix_product

# Operators that read weights without multiplying by them: lookups, arithmetic of recurrent cells.
WITHOUT_PRODUCTS = frozenset(
    {
        *("embedding", "_embedding_bag", "_embedding_bag_forward_only", "embedding_renorm"),
        *("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"),
    }
)


def attention_macs(call: Call) -> tuple[int, int]:
    """Count queries times keys, and weights times values; masks are ignored."""
    query, key, value = call.args[:3]
    products = _rows(next(call.outputs())) * int(key.shape[-2])
    return products * int(query.shape[-1]), products * int(value.shape[-1])


def encoder(call: Call) -> int:
    """Count self-attention with its projections, and the feed-forward layers if it has them."""
    source: Tensor = call.args[0]
    names = ("qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2")
    weights: list[Tensor] = [own for name in names if (own := call.argument(name)) is not None]
    products = 2 * source.shape[-2] * source.shape[-1]
    return _rows(source) * (sum(int(weight.numel()) for weight in weights) + products)


def recurrent(call: Call) -> int:
    """Count every weight matrix once per step, in both directions if there are two."""
    matrices: list[Tensor] = [one for one in call.argument("params") if one.dim() == 2]
    return _rows(call.args[0]) * sum(int(matrix.numel()) for matrix in matrices)


def deformable(call: Call) -> int:
    """Count a convolution; the interpolation of its inputs is not counted."""
    return int(call.out.numel() // call.out.shape[1] * call.args[1].numel())


def bilinear(call: Call) -> int:
    """Count one product of every weight with a pair of inputs."""
    return _rows(call.out) * int(call.args[2].numel())


def distances(call: Call) -> int:
    """Count one product per entry of every pair of vectors."""
    return int(call.out.numel() * call.args[0].shape[-1])


def added_product(call: Call) -> int:
    """Count the product in `self + first @ second`."""
    return int(call.args[1].numel() * call.args[2].shape[-1])


def _rows(tensor: Tensor) -> int:
    return tensor.numel() // tensor.shape[-1]


ATTENTION = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
# Products of batches of matrices; of single ones they are layers written by hand.
MATRIX_PRODUCTS = ("bmm",)

FORMULAS: Mapping[str, Callable[[Call], int]] = {
    **dict.fromkeys(ATTENTION, lambda call: sum(attention_macs(call))),
    "_native_multi_head_attention": encoder,
    "_transformer_encoder_layer_fwd": encoder,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    "torchvision.deform_conv2d": deformable,
    "bilinear": bilinear,
    "cdist": distances,
    "_cdist_forward": distances,
    "addbmm": added_product,
    "_addmm_activation": added_product,
    "_int_mm": lambda call: int(call.args[0].numel() * call.args[1].shape[-1]),
    "mv": lambda call: int(call.args[0].numel()),
    "addmv": lambda call: int(call.args[1].numel()),
    "dot": lambda call: int(call.args[0].numel()),
    "vdot": lambda call: int(call.args[0].numel()),
    "addr": lambda call: int(call.out.numel()),
}


def multiplies(func: Any) -> bool:
    """Say whether PyTorch's registry has a FLOP formula for an operator."""
    return func.overloadpacket in flop_registry


def product(trace: Recorder, call: Call) -> None:
    """A product that is not a layer: MACs are counted, and channels followed if possible."""
    if call.name in ATTENTION:
        followed = fused_attention(trace, call, attention_macs(call))
    else:
        followed = call.name in MATRIX_PRODUCTS and matrix_product(trace, call, _macs(call))
    if not followed:
        unknown(trace, call)
        trace.fixed_macs[call.name] += _macs(call)


def _macs(call: Call) -> int:
    formula = FORMULAS.get(call.name)
    if formula is not None:
        return formula(call)
    flops = flop_registry[call.func.overloadpacket](*call.args, **call.kwargs, out_val=call.out)
    return int(flops // 2)


class Uncounted:
    """Collects operators with weights whose MACs are not known.

    Attributes:
        names: those operators, in the order of their first call.
    """

    def __init__(self, name: Callable[[Tensor | None], str | None]) -> None:
        """Take a function that names parameters and buffers."""
        self.names: dict[str, None] = {}
        self._name = name
        # Tensors that are computed from parameters alone: a normalised weight, a transposed one.
        self._computed: set[int] = set()

    def record(self, call: Call, is_known: bool) -> None:
        """Record one operator call; `is_known` says whether it has a rule."""
        inputs = list(call.inputs())
        has_weights = any(map(self._is_weight, inputs))
        if all(self._is_weight(tensor) or self._name(tensor) for tensor in inputs):
            if has_weights:
                self._computed |= {id(tensor) for tensor in call.outputs()}
        elif has_weights and not is_known and call.name not in WITHOUT_PRODUCTS:
            self.names[call.name] = None

    def _is_weight(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) or id(tensor) in self._computed
