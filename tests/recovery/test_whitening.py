"""Coordinates that a network learns in: the same network, reached in fewer steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.recovery import whitening
from autoprune.recovery.whitening import WhitenedAdam
from autoprune.structure.trace import trace


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Every kind of layer, as (layer, shape of one input)."""
    return {
        "conv": (nn.Conv2d(3, 6, 3, padding=1), (3, 8, 8)),
        "without bias": (nn.Conv2d(3, 6, 3, stride=2, bias=False), (3, 8, 8)),
        "depthwise": (nn.Conv2d(3, 6, 3, groups=3), (3, 8, 8)),
        "transposed": (nn.ConvTranspose2d(3, 6, 2), (3, 8, 8)),
        "linear": (nn.Linear(5, 6), (5,)),
        "tokens": (nn.Linear(5, 6), (4, 5)),
        "scale": (nn.LayerNorm(5), (5,)),
    }


def posed(kind: str) -> tuple[nn.Sequential, Tensor]:
    """A network of one layer and inputs that are correlated and far from zero."""
    torch.manual_seed(0)
    layer, shape = layers()[kind]
    inputs = 3 + torch.randn(64, *shape).cumsum(-1)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(4)).eval()
    model(inputs)
    return model, inputs


@pytest.mark.parametrize("most", [0, 2500])
@pytest.mark.parametrize("kind", layers())
def test_a_step_of_no_length_changes_nothing(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitening, "MOST_INPUTS", most)
    model, inputs = posed(kind)
    before = copy.deepcopy(model.state_dict())
    WhitenedAdam(model, trace(model, inputs[:2]), inputs).step(model(inputs).square().mean(), 0.0)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [0, 2500])
@pytest.mark.parametrize("kind", layers())
def test_every_parameter_learns(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "MOST_INPUTS", most)
    model, inputs = posed(kind)
    goal = 2 * model(inputs).detach() + 1
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    adam = WhitenedAdam(model, trace(model, inputs[:2]), inputs)
    losses = []
    for _ in range(40):
        losses.append((model(inputs) - goal).square().mean())
        adam.step(losses[-1], 1.0)
    assert losses[-1] < 0.7 * losses[0]
    assert not any(torch.equal(before[name], one) for name, one in model.named_parameters())


def test_gradients_are_those_of_the_coordinates() -> None:
    """One step of plain Adam moves every coordinate by the rate, whatever its gradient's size."""
    model, inputs = posed("linear")
    layer, structure = model[0], trace(model, inputs[:2])
    assert isinstance(layer, nn.Linear)
    adam = WhitenedAdam(model, structure, inputs)
    root = torch.linalg.inv(whitening._root(inputs.double().T.cov(correction=0)))
    mean = inputs.mean(0)
    scale = (layer.weight @ root).norm(dim=1, keepdim=True).detach()
    learnt = [((layer.weight @ root) / scale).detach().requires_grad_()]
    learnt.append(((layer.bias + layer.weight @ mean) / scale[:, 0]).detach().requires_grad_())
    outputs = (((inputs - mean) @ root.inverse() @ learnt[0].T) + learnt[1]) * scale[:, 0]
    torch.testing.assert_close(outputs, layer(inputs), rtol=1e-4, atol=1e-4)
    loss = model[2](outputs).square().mean()
    slopes = torch.autograd.grad(loss, learnt)
    rate = whitening.RATE / 5**0.5
    moved = [one - rate * slope.sign() for one, slope in zip(learnt, slopes, strict=True)]
    adam.step(model(inputs).square().mean(), 1.0)
    weight = (moved[0] * scale) @ root.inverse()
    torch.testing.assert_close(layer.weight, weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        layer.bias, moved[1] * scale[:, 0] - weight @ mean, rtol=1e-3, atol=1e-3
    )


def test_correlated_inputs_do_not_slow_it_down() -> None:
    """Least squares on inputs of condition 1e4: AdamW at its best of three rates stays behind."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    inputs = torch.randn(512, 32) * torch.logspace(0, -2, 32) @ basis + 1
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    goal = (inputs - 1) @ basis.T / torch.logspace(0, -2, 32) @ torch.randn(32, 4)

    def loss(network: nn.Module) -> Tensor:
        return (network(inputs) - goal).square().mean()

    def after(network: nn.Module, step: Any) -> float:
        for _ in range(100):
            step(loss(network))
        return float(loss(network).detach())

    plain = []
    for rate in (1e-3, 1e-2, 1e-1):
        own = copy.deepcopy(model)
        adam = torch.optim.AdamW(own.parameters(), rate, weight_decay=0.0)

        def step(value: Tensor, adam: torch.optim.Optimizer = adam) -> None:
            adam.zero_grad()
            value.backward()
            adam.step()

        plain.append(after(own, step))
    whitened = WhitenedAdam(model, trace(model, inputs[:2]), inputs)
    assert after(model, lambda value: whitened.step(value, 10.0)) < 0.8 * min(plain)


def test_a_layer_that_nothing_depends_on_stays(net: Any) -> None:
    model = net(
        lambda m, x: (m.used(x), m.unused(x)), used=nn.Linear(5, 3), unused=nn.Linear(5, 3)
    ).eval()
    inputs = torch.randn(32, 5)
    before = model.unused.weight.detach().clone()
    adam = WhitenedAdam(model, trace(model, inputs[:2]), inputs)
    used = model.used.weight.detach().clone()
    adam.step(model(inputs)[0].square().mean(), 1.0)
    torch.testing.assert_close(model.unused.weight, before)
    assert not torch.equal(model.used.weight, used)


def test_inputs_that_are_always_zero(net: Any) -> None:
    model = net(lambda m, x: m.last(m.first(x).relu()), first=nn.Linear(5, 4), last=nn.Linear(4, 3))
    with torch.no_grad():
        model.first.bias.fill_(-100.0)
    inputs = torch.randn(32, 5)
    adam = WhitenedAdam(model.eval(), trace(model, inputs[:2]), inputs)
    for _ in range(3):
        adam.step(model(inputs).square().mean(), 1.0)
    assert all(bool(one.isfinite().all()) for one in model.parameters())
