"""Real architectures, cut at random to about 0.6 of their MACs: they run and cost as predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from autoprune.cost import cost_models
from autoprune.structure.inputs import Inputs
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze

LIGHT = {
    "resnet18": 0.75,
    "mobilenet_v2": 0.75,
    "densenet121": 0.75,
    "shufflenet_v2_x0_5": 0.6,
    "efficientnet_b0": 0.75,
    "convnext_tiny": 0.77,
}
HEAVY = {"resnet50": 0.75, "vgg11_bn": 0.75, "vit_b_16": 0.4}
"""Share of every prunable group that gives about 0.6 of the MACs, by network."""


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    size = 224 if name.startswith("vit") else 64
    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, size, size)


@pytest.mark.parametrize(
    ("name", "keep"),
    [*LIGHT.items(), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in HEAVY.items())],
)
def test_costs_of_the_cut_network(
    name: str, keep: float, random_cut: Any, count_macs: Callable[[nn.Module, Inputs], float]
) -> None:
    model, images = made(name)
    # Its channels go through chunks and shuffles, which only the verification sees to be rigid.
    structure = (analyze if name.startswith("shufflenet") else trace)(model, images)
    costs = cost_models(structure, adds_bias=False)
    dense = structure.dense_widths
    assert costs["flops"].total(dense) == count_macs(model, images)
    assert costs["params"].total(dense) == sum(p.numel() for p in model.parameters())
    small, widths = random_cut(model, structure, keep)
    assert costs["flops"].total(widths) == count_macs(small, images)
    assert costs["params"].total(widths) == sum(p.numel() for p in small.parameters())
    assert 0.5 < costs["flops"].total(widths) / costs["flops"].total(dense) < 0.7
    with torch.inference_mode():
        assert small(images).shape == (1, 1000)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_verification_agrees_with_the_trace(name: str) -> None:
    model, images = made(name)
    assert len(analyze(model, images).groups) == len(trace(model, images).groups)
