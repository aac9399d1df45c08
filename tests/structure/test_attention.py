"""Attention of every library: heads and widths are cut, run, cost and reload as they should."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from random_cuts import random_cuts
from torch import Tensor, nn
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.models.vision_transformer import VisionTransformer

from autoprune.core.policy import PruningPolicy
from autoprune.cost import cost_models
from autoprune.exporters.onnx import OnnxExporter
from autoprune.structure.attention import SizedAttention, is_sizable, read_own_sizes
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.surgery import apply_policy, with_own_sizes
from autoprune.structure.verify import CutTest, analyze

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
VIDEOS = torch.randn(3, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(0))
WORDS = {"input_ids": torch.arange(1, 28).reshape(3, 9)}


def torchvision_vit() -> nn.Module:
    return VisionTransformer(16, 8, 2, 4, 24, 40, num_classes=5)


def timm_vit(**options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    model: nn.Module = timm.models.VisionTransformer(**sizes, num_classes=5, **options)
    return model


def timm_swin() -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 12, "num_classes": 5}
    model: nn.Module = timm.models.SwinTransformer(**sizes, depths=(2, 1), num_heads=(3, 6))
    return model


def torchvision_swin(version: int = 1) -> nn.Module:
    kinds: dict[str, Any] = {"block": SwinTransformerBlock, "downsample_layer": PatchMerging}
    if version == 2:
        kinds = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer([2, 2], 24, [2, 1], [3, 6], [4, 4], num_classes=5, **kinds)


def torchvision_swin3d() -> nn.Module:
    return SwinTransformer3d([2, 2, 2], 24, [2, 1], [3, 6], [2, 2, 2], num_classes=5)


def hugging_face(kind: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 5}
    config = getattr(transformers, f"{kind}Config")(intermediate_size=40, **sizes, **options)
    tasks = {"ViT": "ImageClassification"}
    made: nn.Module = getattr(
        transformers, f"{kind}For{tasks.get(kind, 'SequenceClassification')}"
    )(config)
    return made


IMAGE = {"image_size": 16, "patch_size": 8}
TEXT = {"vocab_size": 30, "max_position_embeddings": 16}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Inputs, dict[str, int]]] = {
    # By network: its inputs, and how many groups cut streams, heads and widths.
    "torchvision ViT": (torchvision_vit, IMAGES, {"heads": 2, "widths": 4}),
    "timm ViT": (timm_vit, IMAGES, {"heads": 2, "widths": 2}),
    "timm ViT with normalised queries": (
        lambda: timm_vit(qk_norm=True), IMAGES, {"heads": 2, "widths": 2},
    ),
    "timm Swin": (timm_swin, IMAGES, {"heads": 3, "widths": 3}),
    "torchvision Swin": (torchvision_swin, IMAGES, {"heads": 3, "widths": 6}),
    "torchvision Swin V2": (lambda: torchvision_swin(2), IMAGES, {"heads": 3, "widths": 6}),
    "torchvision Swin for videos": (torchvision_swin3d, VIDEOS, {"heads": 3, "widths": 6}),
    "Hugging Face ViT": (lambda: hugging_face("ViT", **IMAGE), IMAGES, {"heads": 2, "widths": 2}),
    "Hugging Face ViT, not fused": (
        lambda: hugging_face("ViT", **IMAGE, attn_implementation="eager"),
        IMAGES,
        {"heads": 2, "widths": 2},
    ),
    "BERT": (lambda: hugging_face("Bert", **TEXT), WORDS, {"heads": 2, "widths": 2}),
    "grouped queries": (
        lambda: hugging_face("Llama", **TEXT, num_key_value_heads=2, pad_token_id=0),
        WORDS,
        # Rotary positions of all layers come from one buffer.
        {"heads": 2, "widths": 1},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: Any) -> tuple[nn.Module, Inputs, Structure, dict[str, int]]:
    build, inputs, ways = NETWORKS[request.param]
    torch.manual_seed(0)
    model = build().eval()
    return model, inputs, analyze(model, sample(inputs, 2)), ways


def test_heads_widths_and_streams_are_groups(case: Any) -> None:
    _, _, structure, ways = case
    found = [group.way for group in structure.groups]
    assert {way: found.count(way) for way in ("heads", "widths")} == ways
    assert {one.reason for one in structure.frozen} == {"the network's output"}
    norms = {"layer_norm", "mean"}  # RMS normalisation written by hand takes a mean
    assert any(norms & {*structure.rescaled_by(group)} for group in structure.groups)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8])
def test_random_cuts_run_and_cost_what_is_predicted(
    case: Any, keep: float, random_cut: Any, count_macs: Any
) -> None:
    model, inputs, structure, _ = case
    costs = cost_models(structure, adds_bias=False)
    small, widths = random_cut(model, structure, keep, seed=round(keep * 10))
    assert costs["flops"].total(widths) == count_macs(small, inputs)
    assert costs["params"].total(widths) == sum(p.numel() for p in small.parameters())
    for batch in (1, 3):
        outputs = outputs_of(run(small, sample(inputs, batch)))
        assert all(one.isfinite().all() and len(one) == batch for one in outputs.values())


def test_random_cuts_are_what_the_dense_network_does_without_the_channels(case: Any) -> None:
    model, inputs, structure, _ = case
    test = CutTest(with_own_sizes(model), inputs)
    for batch, kept in random_cuts(structure):
        assert test.difference(structure, kept, batch) is None


def test_a_policy_reloads_bit_for_bit(case: Any) -> None:
    model, inputs, structure, _ = case
    policy = structure.policy([range(0, g.size, 2) for g in structure.groups])
    again = PruningPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    first, second = (apply_policy(model, one) for one in (policy, again))
    for a, b in zip(*(outputs_of(run(m, inputs)).values() for m in (first, second)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["torchvision ViT", "timm Swin", "Hugging Face ViT"])
def test_a_cut_network_exports_to_onnx(name: str, tmp_path: Any) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    structure = analyze(model, IMAGES)
    small = apply_policy(model, structure.policy([range(0, g.size, 3) for g in structure.groups]))
    exporter = OnnxExporter()
    exporter.write(exporter.program(small, IMAGES), tmp_path / "small.onnx")
    predict = exporter.open(tmp_path / "small.onnx", 1)
    (found, *_) = predict([IMAGES])
    (expected, *_) = outputs_of(small(IMAGES)).values()
    assert torch.allclose(torch.as_tensor(found), expected, atol=1e-5)


def by_hand(x: Tensor, weights: dict[str, Tensor], heads: int, scale: float) -> Tensor:
    """Attention from sliced weights, one head after the other."""
    found = []
    for h in range(heads):
        q, k, v = (
            x @ weights[name].chunk(heads)[h].T + weights[f"{name}_bias"].chunk(heads)[h]
            for name in "qkv"
        )
        found.append((q @ k.mT * scale).softmax(-1) @ v)
    return torch.cat(found, -1) @ weights["out"].T + weights["out_bias"]


def test_cut_heads_and_widths_are_the_kept_rows_and_columns() -> None:
    """Four heads of three; heads 1 and 3 stay, queries keep channels 0 and 2, values channel 1."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 4, batch_first=True).eval()
    attention.in_proj_bias.data.normal_()
    model = nn.TransformerEncoderLayer(12, 4, 8, batch_first=True).eval()
    model.self_attn = attention
    structure = analyze(model, TOKENS)
    chosen = {"heads": [(1, 3)], "widths": [(0, 2), (1,)]}
    kept = [
        chosen[group.way].pop(0) if group.way else range(group.size) for group in structure.groups
    ]
    small = apply_policy(model, structure.policy(kept)).self_attn

    def rows(channels: tuple[int, ...]) -> list[int]:
        return [3 * h + c for h in (1, 3) for c in channels]

    weights = {"out": attention.out_proj.weight[:, rows((1,))], "out_bias": attention.out_proj.bias}
    for name, weight, bias, channels in zip(
        "qkv",
        attention.in_proj_weight.chunk(3),
        attention.in_proj_bias.chunk(3),
        ((0, 2), (0, 2), (1,)),
        strict=True,
    ):
        weights |= {name: weight[rows(channels)], f"{name}_bias": bias[rows(channels)]}
    found = small(TOKENS, TOKENS, TOKENS, need_weights=False)[0]
    assert torch.allclose(found, by_hand(TOKENS, weights, 2, 3**-0.5), atol=1e-6)
    assert (small.num_heads, small.head_dim, attention.num_heads) == (2, 1, 4)


MASKS = {
    "none": None,
    "some": torch.tensor([[False] + [True] * 4] + [[False] * 5] * 4),
    "numbers": torch.linspace(-1, 1, 25).reshape(5, 5),
    "by head": torch.linspace(-1, 1, 9 * 25).reshape(9, 5, 5),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 12, "vdim": 12}])
@pytest.mark.parametrize("call", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_sized_attention_is_pytorchs(mask: str, options: Any, call: Any, batch_first: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options).eval()
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    assert (
        isinstance(ours, SizedAttention) and ours.state_dict().keys() == theirs.state_dict().keys()
    )
    x = TOKENS if batch_first else TOKENS.transpose(0, 1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[:, 3:] = True
    extra = {"attn_mask": MASKS[mask], "key_padding_mask": padding, **call}
    if mask not in ("none", "some"):
        extra["key_padding_mask"] = padding.float()  # PyTorch wants masks of one type
    for a, b in zip(theirs(x, x, x, **extra), ours(x, x, x, **extra), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-6)


def test_one_sequence_without_a_batch_is_attended_to() -> None:
    theirs = nn.MultiheadAttention(12, 3).eval()
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    for a, b in zip(*(m(*[TOKENS[0]] * 3) for m in (theirs, ours)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_only_pytorchs_own_module_is_taken_for_it() -> None:
    class Other(nn.MultiheadAttention):
        pass

    plain = nn.Sequential(nn.MultiheadAttention(4, 2))
    assert is_sizable(plain[0]) and isinstance(with_own_sizes(plain)[0], SizedAttention)
    assert type(plain[0]) is nn.MultiheadAttention
    others = [Other(4, 2), nn.MultiheadAttention(4, 2, add_bias_kv=True), nn.Linear(4, 2)]
    assert not any(map(is_sizable, others))
    assert with_own_sizes(others[0]) is others[0]


def test_fused_attention_without_a_scale_of_its_own_is_told_apart(net: Any) -> None:
    def attend(m: Any, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
        out: Tensor = m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out

    layers = {name: nn.Linear(12, 12) for name in ("q", "k", "v", "out")}
    structure = analyze(net(attend, **layers), TOKENS)
    rescaled = {group.name: structure.rescaled_by(group) for group in structure.groups}
    assert rescaled == {
        "q#widths": ("scaled_dot_product_attention",),
        "v#widths": (),
    }
