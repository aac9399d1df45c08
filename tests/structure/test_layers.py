"""Every kind of layer is what PyTorch runs, and modules are told their new sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.structure.layers import (
    LAYER_KINDS,
    LAYER_MODULES,
    LayerKind,
    channels,
    has_weights,
    update_sizes,
)
from autoprune.structure.tracing.operators import OperatorMode, whole_operators


class Names(OperatorMode):
    """Notes the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        self.seen.append(name)
        return func(*args, **kwargs)


def make(kind: LayerKind, inputs: int, outputs: int) -> nn.Module:
    build: Any = kind.module
    layer: nn.Module = build(inputs, outputs, 3) if kind.rank else build(inputs, outputs)
    return layer


@pytest.mark.parametrize("kind", LAYER_KINDS.values(), ids=LAYER_KINDS)
def test_a_kind_describes_its_module(kind: LayerKind) -> None:
    layer, names = make(kind, 4, 6), Names()
    space = (5,) * kind.rank
    images = torch.zeros(2, 4, *space) if kind.rank else torch.zeros(2, 7, 4)
    with whole_operators(), names:
        out = layer(images)
    assert names.seen == [kind.operator]
    assert images.shape[kind.channel_dim] == 4 and out.shape[kind.channel_dim] == 6
    weight = layer.get_parameter("weight")
    assert weight.shape[kind.in_dim] == 4 and weight.shape[1 - kind.in_dim] == 6
    assert channels(layer) == (4, 6)
    assert isinstance(layer, LAYER_MODULES) and has_weights(kind.operator)


@pytest.mark.parametrize("kind", LAYER_KINDS.values(), ids=LAYER_KINDS)
def test_sizes_follow_the_weight(kind: LayerKind) -> None:
    layer: Any = make(kind, 4, 6)
    layer.weight = make(kind, 3, 5).get_parameter("weight")
    update_sizes(layer)
    assert channels(layer) == (3, 5)


def test_sizes_of_grouped_convolutions() -> None:
    grouped: Any = nn.Conv2d(8, 8, 3, groups=4)
    grouped.weight = nn.Parameter(grouped.weight[:6].detach())
    update_sizes(grouped, torch.tensor([0, 1, 4, 5, 6, 7]))
    assert (grouped.groups, *channels(grouped)) == (3, 6, 6)
    narrower: Any = nn.Conv2d(8, 8, 3, groups=4)
    narrower.weight = nn.Parameter(narrower.weight[::2, :1].detach())
    update_sizes(narrower, torch.tensor([0, 2, 4, 6]))
    assert (narrower.groups, *channels(narrower)) == (4, 4, 4)
    transposed: Any = nn.ConvTranspose2d(8, 4, 3, groups=2)
    transposed.weight = nn.Parameter(transposed.weight[:, :1].detach())
    update_sizes(transposed)
    assert (transposed.groups, *channels(transposed)) == (2, 8, 2)


def test_sizes_of_what_lies_between_layers() -> None:
    norm: Any = nn.BatchNorm2d(4, affine=False)
    norm.running_mean = torch.zeros(3)
    prelu: Any = nn.PReLU(4)
    prelu.weight = nn.Parameter(torch.zeros(3))
    for module in (norm, prelu, nn.ReLU()):
        update_sizes(module)
    assert norm.num_features == 3 and prelu.num_parameters == 3


@pytest.mark.parametrize("name", ["embedding", "lstm", "addmm"])
def test_not_everything_with_weights_is_a_layer(name: str) -> None:
    assert has_weights(name) and name not in LAYER_KINDS
    assert not has_weights("add")
