"""Which layers would add a bias: told by what a forward pass reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.groups import Structure
from autoprune.structure.tracing.trace import trace


class Deaf(nn.Conv2d):
    """A convolution that never adds a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=self.padding)


class Late(nn.Conv2d):
    """A convolution that adds its bias itself."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight)
        return out if self.bias is None else out + self.bias[:, None, None]


class Insists(nn.Conv2d):
    """A convolution that must not have a bias."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is None
        return super().forward(x)


def pixel(kind: type[nn.Conv2d] = nn.Conv2d, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    return kind(3, 3, 1, groups=groups, bias=bias)


def traced(net: Any, forward: Any, **parts: nn.Module) -> Structure:
    model = net(forward, **parts, head=nn.Linear(3, 2, bias=False)).eval()
    before = dict(model.named_parameters())
    structure = trace(model, torch.randn(2, 3, 4, 4))
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    return structure


def takers(structure: Structure) -> set[str]:
    return {layer.name for layer in structure.layers if layer.takes_bias}


def refittable(structure: Structure) -> set[str]:
    return {layer.name for layer in structure.layers if layer.refittable}


def test_a_layer_takes_a_bias_if_every_call_adds_it(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.called(x) + F.conv2d(x, m.alone.weight) + F.conv2d(x, m.both.weight, m.both.bias)
        h = m.deaf(h) + F.conv2d(h, m.without.weight) + m.biased(h) + m.depthwise(h)
        h = m.late(h) + m.partly(h) + F.conv2d(h, m.partly.weight)
        h = F.conv2d(h, m.another.weight, m.biased.bias)
        return m.head(h.mean((2, 3)))  # type: ignore[no-any-return]

    parts = {name: pixel() for name in ("called", "alone", "both", "partly")}
    parts |= {name: pixel(bias=True) for name in ("without", "biased", "another")}
    parts |= {"deaf": pixel(Deaf), "late": pixel(Late), "depthwise": pixel(groups=3)}
    unused = nn.Linear(3, 3, bias=False)
    del unused.weight
    structure = traced(net, forward, **parts, unused=unused)
    assert takers(structure) == {"called", "both", "biased", "depthwise", "head"}
    assert refittable(structure) == takers(structure) - {"depthwise"}


def test_a_batchnorm_stands_in_for_a_bias(net: Any) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.bn(F.conv2d(x, m.alone.weight)).relu()
        return m.head(m.other(F.conv2d(h, m.without.weight)).mean((2, 3)))  # type: ignore[no-any-return]

    parts = {"alone": pixel(), "without": pixel(bias=True)}
    parts |= {name: nn.BatchNorm2d(3) for name in ("bn", "other")}
    structure = traced(net, forward, **parts)
    assert takers(structure) == {"head"}
    assert refittable(structure) == {"alone", "head"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_that_insists_on_no_bias_is_traced(net: Any, dtype: torch.dtype) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(m.insists(x.to(dtype)).mean((2, 3)))  # type: ignore[no-any-return]

    insists = pixel(Insists).to(dtype)
    model = net(forward, insists=insists, head=nn.Linear(3, 2, bias=False).to(dtype)).eval()
    structure = trace(model, torch.randn(2, 3, 4, 4))
    assert len(structure.layers) == 2 and not takers(structure)
    assert insists.bias is None and model.head.bias is None
