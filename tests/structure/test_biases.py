"""Which layers would add a bias: told by what a forward pass reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.trace import trace


class Deaf(nn.Conv2d):
    """A convolution that never adds a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=self.padding)


def forward(m: Any, x: Tensor) -> Tensor:
    h = m.called(x) + F.conv2d(x, m.alone.weight) + F.conv2d(x, m.both.weight, m.both.bias)
    h = m.deaf(h) + F.conv2d(h, m.without.weight) + m.biased(h) + m.depthwise(h)
    return m.head(h.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_layer_takes_a_bias_if_the_pass_reads_it(net: Any) -> None:
    bare = {"kernel_size": 1, "bias": False}
    parts = {name: nn.Conv2d(3, 3, **bare) for name in ("called", "alone", "both")}
    parts |= {"deaf": Deaf(3, 3, **bare), "depthwise": nn.Conv2d(3, 3, 1, groups=3, bias=False)}
    parts |= {name: nn.Conv2d(3, 3, 1) for name in ("without", "biased")}
    model = net(forward, **parts, head=nn.Linear(3, 2, bias=False)).eval()
    before = {name: parameter for name, parameter in model.named_parameters()}
    structure = trace(model, torch.randn(2, 3, 4, 4))
    takes = {layer.name for layer in structure.layers if layer.takes_bias}
    refittable = {layer.name for layer in structure.layers if layer.refittable}
    assert takes == {"called", "both", "biased", "depthwise", "head"}
    assert refittable == takes - {"depthwise"}
    assert all(before[name] is p for name, p in model.named_parameters())
    assert all(model.get_submodule(name).bias is None for name in ("called", "alone", "head"))
