"""Layers whose weight is computed stay whole, for the true reason; the others are pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from autoprune.cost import cost_models
from autoprune.structure.surgery import apply_policy
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(middle: nn.Module | None = None) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), middle or nn.Conv2d(6, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 10, 1), nn.ReLU(), nn.Conv2d(10, 4, 1),
    ).eval()  # fmt: skip


class Adapted(nn.Module):
    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Any) -> Any:
        change = (self.up @ self.down)[:, :, None, None]
        return F.conv2d(x, self.base.weight + change, self.base.bias)


class Standardised(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Blur(nn.Module):
    def __init__(self, kernel: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1])


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.rand(8, 6, 3, 3))

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.kernel, padding=1)


def changed(change: Callable[[nn.Module], Any]) -> Any:
    model = network()
    change(model[2])
    return model


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "parametrization": (
        lambda: changed(parametrizations.weight_norm),
        "2's weight is computed from 2.parametrizations.weight.original0, "
        "2.parametrizations.weight.original1: make the result one parameter",
    ),
    "adapter": (
        lambda: network(Adapted(nn.Conv2d(6, 8, 1))),
        "2's weight is computed from 2.base.weight, 2.down, 2.up: make the result one parameter",
    ),
    "standardised": (
        lambda: network(Standardised(6, 8, 1)),
        "2's weight is computed from 2.weight: make the result one parameter",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_a_computed_weight_freezes_its_layer_alone(way: str) -> None:
    make, reason = WAYS[way]
    model = make()
    structure = analyze(model, IMAGES)
    assert [group.name for group in structure.groups] == ["4"]
    told = {frozen.name: (frozen.size, frozen.reason) for frozen in structure.frozen}
    assert told == {"0": (6, reason), "2": (8, reason), "6": (4, "the network's output")}
    small = apply_policy(model, structure.policy([range(5)]))
    assert small[4].out_channels == 5
    with torch.no_grad():
        torch.testing.assert_close(small[:4](IMAGES), model[:4](IMAGES))


@pytest.mark.parametrize("shape", [(6, 1, 3, 3), (1, 1, 3, 3)])
def test_channels_pass_filters_that_are_no_parameters(shape: tuple[int, ...]) -> None:
    model = network(Blur(torch.rand(shape)))
    model[4] = nn.Conv2d(6, 10, 1)
    structure = analyze(model, IMAGES)
    assert [group.name for group in structure.groups] == ["0", "4"]
    assert not structure.fixed_macs
    small = apply_policy(model, structure.policy([[0, 4, 5], range(10)]))
    assert small[0].out_channels == 3 and small(IMAGES).shape == model(IMAGES).shape
    macs = cost_models(structure)["flops"].total
    # Of a blur as of the layers around it: positions x filter x channels.
    assert macs((6, 10)) - macs((3, 10)) == 64 * 3 * (3 + 9 + 10)


def test_a_buffer_as_kernel_is_named() -> None:
    model = network(Mixing())
    structure = analyze(model, IMAGES)
    assert [group.name for group in structure.groups] == ["4"]
    reasons = {frozen.name: frozen.reason for frozen in structure.frozen}
    assert reasons["0"] == "used by conv2d with a buffer as its weight, 2.kernel"


def test_a_bias_that_is_put_together_is_cut_with_its_parts(net: Any) -> None:
    model = net(
        lambda m, x: m.c(F.conv2d(m.a(x), m.kernel, torch.cat([m.one, m.none, m.two])).relu()),
        a=nn.Conv2d(3, 6, 1),
        kernel=nn.Parameter(torch.randn(8, 6, 1, 1)),
        one=nn.Parameter(torch.randn(3)),
        two=nn.Parameter(torch.randn(2)),
        none=nn.Buffer(torch.zeros(3)),
        c=nn.Conv2d(8, 4, 1),
    )
    structure = analyze(model, IMAGES)
    sizes = {group.name: group.size for group in structure.groups}
    assert sum(sizes.values()) == 6 + 8 and {f.name for f in structure.frozen} == {"c"}
    small = apply_policy(model, structure.policy([range(2) for _ in structure.groups]))
    assert len(small.one) == 2 and len(small.two) == 2


def test_a_kernel_for_every_input_is_named(net: Any) -> None:
    model = net(
        lambda m, x: m.c(F.conv2d(m.a(x), m.kernels * x.amax((0, 2, 3))[0])),
        a=nn.Conv2d(3, 6, 1), kernels=nn.Parameter(torch.randn(8, 6, 1, 1)), c=nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    reasons = {frozen.name: frozen.reason for frozen in analyze(model, IMAGES).frozen}
    assert reasons["a"] == "used by conv2d, whose weight is computed from the network's input"


def test_a_network_that_is_one_such_layer() -> None:
    layer = parametrizations.weight_norm(nn.Linear(5, 4))
    (frozen,) = analyze(layer, torch.randn(2, 5)).frozen
    assert frozen.reason.startswith("the network's weight is computed from parametrizations.weight")
