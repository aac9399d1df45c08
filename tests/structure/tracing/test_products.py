"""MACs of what is no layer: by hand, as spelt out in matrix products, whichever kernel runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pack_padded_sequence

from autoprune.cost.counts import MacsCost
from autoprune.structure.inputs import Inputs
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def macs(model: nn.Module, inputs: Inputs) -> float:
    structure = trace(model.eval(), inputs)
    assert structure.uncounted == ()
    return MacsCost(structure).total(structure.dense_widths)


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attended(m: Any, x: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(heads(x, 2), heads(x.sin(), 2), heads(x, 2), **options)


def spelt_out(m: Any, x: Tensor) -> Tensor:
    query = heads(x, 2)
    weights = (query @ heads(x.sin(), 2).transpose(-1, -2) / 2).softmax(-1)
    return weights @ query


def longer_keys(m: Any, x: Tensor) -> Tensor:
    """5 queries, 10 keys of 8 numbers, values of 16."""
    twice = torch.cat([x, x], 1)
    return F.scaled_dot_product_attention(x, twice, torch.cat([twice, twice], 2))


def grouped_queries(m: Any, x: Tensor) -> Tensor:
    """Four heads of 2 share two heads of keys."""
    keys = heads(x[..., :4], 2)
    return F.scaled_dot_product_attention(heads(x, 4), keys, keys, enable_gqa=True)


ATTENTION = {
    "plain": (attended, 2 * 5 * 5 * 8),
    "spelt out": (spelt_out, 2 * 5 * 5 * 8),
    "causal": (lambda m, x: attended(m, x, is_causal=True), 2 * 5 * 5 * 8),
    "masked": (lambda m, x: attended(m, x, attn_mask=torch.ones(5, 5) > 0), 2 * 5 * 5 * 8),
    "longer keys": (longer_keys, 5 * 10 * (8 + 16)),
    "grouped queries": (grouped_queries, 4 * 5 * 5 * (2 + 2)),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, None])
def test_attention_by_hand_whichever_kernel_runs(
    net: Any, name: str, kernel: SDPBackend | None
) -> None:
    forward, expected = ATTENTION[name]
    choice: AbstractContextManager[Any] = sdpa_kernel(
        [kernel, SDPBackend.MATH] if kernel is not None else list(SDPBackend.__members__.values())
    )
    with choice:
        assert macs(net(forward), TOKENS) == expected


@pytest.mark.parametrize("fused", [True, False])
def test_transformer_encoder_by_hand(fused: bool) -> None:
    """Two layers: four projections of 8 x 8 and attention, 8 → 16 → 8 behind it."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    torch.backends.mha.set_fastpath_enabled(fused)
    try:
        assert macs(model, TOKENS) == 2 * (4 * 5 * 64 + 2 * 25 * 8 + 5 * 2 * 128)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_fused_encoder_operators_count_what_they_replace(net: Any) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attention = layer.self_attn

    def projected(m: Any, x: Tensor) -> Tensor:
        weights = attention.in_proj_weight, attention.in_proj_bias
        out = attention.out_proj.weight, attention.out_proj.bias
        return torch._native_multi_head_attention(x, x, x, 8, 2, *weights, *out)[0]

    def whole(m: Any, x: Tensor) -> Tensor:
        return torch._transformer_encoder_layer_fwd(
            x, 8, 2, attention.in_proj_weight, attention.in_proj_bias,
            attention.out_proj.weight, attention.out_proj.bias, False, False, 1e-5,
            layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias,
            layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias,
        )  # fmt: skip

    assert macs(net(projected), TOKENS) == 4 * 5 * 64 + 2 * 25 * 8
    assert macs(net(whole), TOKENS) == 4 * 5 * 64 + 2 * 25 * 8 + 5 * 2 * 128


RECURRENT = {
    "LSTM": (nn.LSTM, {}, 4 * 6 * (8 + 6)),
    "GRU": (nn.GRU, {}, 3 * 6 * (8 + 6)),
    "RNN": (nn.RNN, {}, 6 * (8 + 6)),
    "RNN with ReLU": (nn.RNN, {"nonlinearity": "relu"}, 6 * (8 + 6)),
    "both directions": (nn.LSTM, {"bidirectional": True}, 2 * 4 * 6 * (8 + 6)),
    "two layers": (nn.GRU, {"num_layers": 2}, 3 * 6 * (8 + 6) + 3 * 6 * (6 + 6)),
    "two layers, both directions": (
        nn.LSTM, {"num_layers": 2, "bidirectional": True},
        2 * 4 * 6 * (8 + 6) + 2 * 4 * 6 * (12 + 6),
    ),
    "projected": (nn.LSTM, {"proj_size": 3}, 4 * 6 * (8 + 3) + 6 * 3),
    "without biases": (nn.LSTM, {"bias": False}, 4 * 6 * (8 + 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.filterwarnings("ignore:TF32")
def test_recurrent_networks_by_hand(net: Any, name: str, fused: bool) -> None:
    """Five steps of 8 numbers; 6 hidden ones."""
    kind, options, each_step = RECURRENT[name]
    model = net(lambda m, x: m.rnn(x)[0], rnn=kind(8, 6, batch_first=True, **options))
    with nullcontext() if fused else torch.backends.mkldnn.flags(enabled=False):
        assert macs(model, TOKENS) == 5 * each_step


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_packed_sequences_multiply_only_what_is_there(net: Any, kind: Any, gates: int) -> None:
    model = net(
        lambda m, x: m.rnn(pack_padded_sequence(x, [3] * len(x), batch_first=True))[0].data,
        rnn=kind(8, 6, batch_first=True),
    )
    assert macs(model, TOKENS) == 3 * gates * 6 * (8 + 6)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_cells_count_as_the_network_they_unroll(net: Any, kind: Any, gates: int) -> None:
    def unrolled(m: Any, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return state[0] if isinstance(state, tuple) else state

    assert macs(net(unrolled, cell=kind(8, 6)), TOKENS) == 5 * gates * 6 * (8 + 6)


class Deformed(nn.Module):
    """3 x 3 deformed, 4 → 6 channels in two groups; offsets from a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(4, 18, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x, self.offset(x))
        return out


def test_deformable_convolution_by_hand() -> None:
    assert macs(Deformed(), IMAGES) == 36 * 18 * 4 * 9 + 36 * 6 * 2 * 9


def weight_of(x: Tensor, *shape: int) -> Tensor:
    """A weight that is computed from the input."""
    return x.mean() * torch.ones(shape)


PRODUCTS: dict[str, tuple[Callable[[Any, Tensor], Any], int]] = {
    "matmul": (lambda m, x: x @ x.transpose(1, 2), 5 * 8 * 5),
    "bmm": (lambda m, x: torch.bmm(x, x.transpose(1, 2)), 5 * 8 * 5),
    "baddbmm": (lambda m, x: torch.baddbmm(x[..., :5], x, x.transpose(1, 2)), 5 * 8 * 5),
    "addbmm": (lambda m, x: torch.addbmm(x[0, :, :5], x, x.transpose(1, 2)), 5 * 8 * 5),
    "mm": (lambda m, x: x[0].mm(x[0].t()), 5 * 8 * 5),
    "addmm": (lambda m, x: torch.addmm(x[0, :, :5], x[0], x[0].t()), 5 * 8 * 5),
    "mv": (lambda m, x: x[0].mv(x[0, 0]), 5 * 8),
    "addmv": (lambda m, x: x[0, :, 0].addmv(x[0], x[0, 0]), 5 * 8),
    "dot": (lambda m, x: x[0, 0].dot(x[0, 1]) + torch.vdot(x[0, 0], x[0, 1]), 8 + 8),
    "addmm, activated": (
        lambda m, x: torch._addmm_activation(x[0, 0, :5], x[0], x[0].t()), 5 * 8 * 5,
    ),
    "whole numbers": (
        lambda m, x: torch._int_mm(x[0].to(torch.int8), x[0].t().to(torch.int8)), 5 * 8 * 5,
    ),
    "addr": (lambda m, x: x[0].addr(x[0, :, 0], x[0, 0]), 5 * 8),
    "inner": (lambda m, x: torch.inner(x[0], x[0]), 5 * 8 * 5),
    "tensordot": (lambda m, x: torch.tensordot(x[0], x[0], ([1], [1])), 5 * 8 * 5),
    "einsum": (lambda m, x: torch.einsum("bic,bjc->bij", x, x), 5 * 8 * 5),
    "multi_dot": (lambda m, x: torch.linalg.multi_dot([x[0], x[0].t(), x[0]]), 2 * 5 * 8 * 5),
    "cdist": (lambda m, x: torch.cdist(x, x.sin()), 5 * 5 * 8),
    "cdist of many": (lambda m, x: torch.cdist(x.repeat(1, 8, 1), x.sin()), 40 * 5 * 8),
    "conv1d": (lambda m, x: F.conv1d(x, weight_of(x, 6, 5, 3)), 6 * 6 * 5 * 3),
    "grouped conv1d": (lambda m, x: F.conv1d(x, weight_of(x, 10, 1, 3), groups=5), 6 * 10 * 3),
    "transposed": (lambda m, x: F.conv_transpose1d(x, weight_of(x, 5, 6, 3)), 8 * 5 * 6 * 3),
    "grouped transposed": (
        lambda m, x: F.conv_transpose1d(x, weight_of(x, 5, 2, 3), groups=5), 8 * 5 * 2 * 3,
    ),
    "convolution": (
        lambda m, x: torch.convolution(
            x, weight_of(x, 6, 5, 3), None, [1], [0], [1], False, [0], 1
        ),
        6 * 6 * 5 * 3,
    ),
    "linear": (lambda m, x: F.linear(x, weight_of(x, 6, 8)), 5 * 8 * 6),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_activations_by_hand(net: Any, name: str) -> None:
    forward, expected = PRODUCTS[name]
    assert macs(net(forward), TOKENS[:1]) == expected


def test_bilinear_layers_multiply_every_weight_once(net: Any) -> None:
    model = net(lambda m, x: m.pair(x, x[..., :3]), pair=nn.Bilinear(8, 3, 7))
    assert macs(model, TOKENS) == 5 * 7 * 8 * 3


def test_lookups_multiply_nothing(net: Any) -> None:
    model = net(
        lambda m, x: m.rows(x).mean(1) + m.bag(x),
        rows=nn.Embedding(9, 4),
        bag=nn.EmbeddingBag(9, 4),
    )
    assert macs(model, torch.arange(6).reshape(2, 3)) == 0


def test_attention_shrinks_with_heads_and_widths(random_cut: Any, count_macs: Any) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    structure = analyze(layer, TOKENS)
    assert [(group.way, group.size) for group in structure.groups] == [
        ("heads", 2),
        (None, 16),
        ("widths", 4),
        ("widths", 4),
    ]
    assert structure.fixed_macs == {}
    assert sum(one.macs * math.prod(one.shape) for one in structure.mixers) == 2 * 25 * 8
    for keep in (0.3, 0.5, 0.75):
        small, widths = random_cut(layer, structure, keep)
        assert MacsCost(structure).total(widths) == count_macs(small, TOKENS)


@torch.library.custom_op("autoprune_tests::rows_times", mutates_args=())
def rows_times(x: Tensor, weight: Tensor) -> Tensor:
    """A kernel of which nothing is known."""
    return x @ weight.t()


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: rows_times(x, m.fc.weight),
        lambda m, x: rows_times(x, m.fc.weight.t().contiguous().t()),
        lambda m, x: rows_times(x, m.fc.weight * m.fc.weight.norm()),
        lambda m, x: m.fc(x) + rows_times(x, m.fc.weight),
    ],
)
def test_unknown_operators_with_weights_are_named(net: Any, forward: Any) -> None:
    structure = trace(net(forward, fc=nn.Linear(8, 3)), TOKENS)
    assert structure.uncounted == ("autoprune_tests.rows_times",)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: rows_times(x, x[0]),  # no weights
        lambda m, x: x * torch.linalg.matrix_norm(m.fc.weight.cumsum(0)),  # nothing but weights
        lambda m, x: m.fc(x).topk(2).values,
    ],
)
def test_others_are_not(net: Any, forward: Any) -> None:
    assert trace(net(forward, fc=nn.Linear(8, 3)), TOKENS).uncounted == ()


def test_an_outer_product_of_unlike_sizes_keeps_its_factors(net: Any) -> None:
    """Each channel of one meets each of the other, and neither can be read off the result."""

    def forward(m: Any, x: Tensor) -> Tensor:
        outer = torch.bmm(m.a(x)[:, :, None], m.b(x)[:, None])
        return m.out(m.c(x).relu() + m.d(outer.flatten(1)))  # type: ignore[no-any-return]

    parts = {"a": nn.Linear(5, 4), "b": nn.Linear(5, 6), "c": nn.Linear(5, 8)}
    model = net(forward, **parts, d=nn.Linear(24, 8), out=nn.Linear(8, 2))
    structure = analyze(model, torch.randn(3, 5))
    assert [group.size for group in structure.groups] == [8]
    assert {frozen.name for frozen in structure.frozen} >= {"a", "b"}
