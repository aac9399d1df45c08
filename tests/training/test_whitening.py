"""Coordinates that a network learns in: the same network, reached in fewer steps."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.structure.tracing.trace import trace
from autoprune.training import whitening
from autoprune.training.whitening import WhitenedAdam, find_bases, whitened

RATE = 0.03


def learner(model: nn.Module, inputs: Tensor, size: int = 50) -> WhitenedAdam:
    structure = trace(model, inputs[:2])
    return WhitenedAdam(model, structure, find_bases(model, structure, batches(inputs, size)))


def batches(inputs: Tensor, size: int) -> list[Samples]:
    return [*Samples(inputs, None).batches(size)]


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
    learner(model, inputs).learn(model(inputs).square().mean(), 0.0)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [0, 2500])
@pytest.mark.parametrize("kind", layers())
def test_every_parameter_learns(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "MOST_INPUTS", most)
    model, inputs = posed(kind)
    goal = 2 * model(inputs).detach() + 1
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    adam = learner(model, inputs)
    losses = []
    for _ in range(40):
        losses.append((model(inputs) - goal).square().mean())
        adam.learn(losses[-1], RATE)
    assert losses[-1] < 0.7 * losses[0]
    assert not any(torch.equal(before[name], one) for name, one in model.named_parameters())


def test_gradients_are_those_of_the_coordinates() -> None:
    """One step of plain Adam moves every coordinate by the rate, whatever its gradient's size."""
    model, inputs = posed("linear")
    layer = model[0]
    assert isinstance(layer, nn.Linear)
    adam = learner(model, inputs)
    covariance = inputs.double().T.cov(correction=0)
    damped = covariance + whitening.DAMPING * covariance.diagonal().mean() * torch.eye(5)
    root = torch.from_numpy(np.real(scipy.linalg.sqrtm(damped.numpy()))).float()
    mean = inputs.mean(0)
    scale = (layer.weight @ root).norm(dim=1, keepdim=True).detach()
    learnt = [((layer.weight @ root) / scale).detach().requires_grad_()]
    learnt.append(((layer.bias + layer.weight @ mean) / scale[:, 0]).detach().requires_grad_())
    outputs = (((inputs - mean) @ root.inverse() @ learnt[0].T) + learnt[1]) * scale[:, 0]
    torch.testing.assert_close(outputs, layer(inputs), rtol=1e-4, atol=1e-4)
    loss = model[2](outputs).square().mean()
    slopes = torch.autograd.grad(loss, learnt)
    rate = RATE / 5**0.5
    moved = [one - rate * slope.sign() for one, slope in zip(learnt, slopes, strict=True)]
    adam.learn(model(inputs).square().mean(), RATE)
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
    whitened = learner(model, inputs)
    assert after(model, lambda value: whitened.learn(value, 10 * RATE)) < 0.8 * min(plain)


def test_a_layer_that_nothing_depends_on_stays(net: Any) -> None:
    model = net(
        lambda m, x: (m.used(x), m.unused(x)), used=nn.Linear(5, 3), unused=nn.Linear(5, 3)
    ).eval()
    inputs = torch.randn(32, 5)
    before = model.unused.weight.detach().clone()
    adam = learner(model, inputs)
    used = model.used.weight.detach().clone()
    adam.learn(model(inputs)[0].square().mean(), RATE)
    torch.testing.assert_close(model.unused.weight, before)
    assert not torch.equal(model.used.weight, used)


def test_inputs_that_are_always_zero(net: Any) -> None:
    model = net(lambda m, x: m.last(m.first(x).relu()), first=nn.Linear(5, 4), last=nn.Linear(4, 3))
    with torch.no_grad():
        model.first.bias.fill_(-100.0)
    inputs = torch.randn(32, 5)
    adam = learner(model.eval(), inputs)
    for _ in range(3):
        adam.learn(model(inputs).square().mean(), RATE)
    assert all(bool(one.isfinite().all()) for one in model.parameters())


def test_batches_are_no_larger_than_allowed_and_find_the_same(net: Any) -> None:
    seen = []
    model, inputs = posed("conv")
    structure = trace(model, inputs[:2])
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    whole, parts = (
        find_bases(model, structure, batches(inputs, size))["0.weight"] for size in (64, 10)
    )
    assert seen == [64, *[10] * 6, 4]
    assert whole.mean is not None and parts.mean is not None
    torch.testing.assert_close(whole.mean, parts.mean, rtol=0.2, atol=0.2)


def test_frames_in_the_batch_are_positions_like_others(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    monkeypatch.setattr(
        whitening.MomentSum,
        "add",
        lambda self, source, positions, generator: rows.append(len(source) * positions),
    )
    monkeypatch.setattr(whitening.MomentSum, "count", 0, raising=False)
    model = net(
        lambda m, x: m.last(m.conv(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (-1, 6)).mean(1)),
        conv=nn.Conv2d(3, 4, 3),
        last=nn.Linear(4, 2),
    ).eval()
    inputs = torch.randn(16, 6, 3, 12, 12)
    learner(model, inputs, 16)
    assert whitening.ROWS * 27 <= rows[0] < 2 * whitening.ROWS * 27


class Shifted(nn.Conv2d):
    """Its bias is no row of values."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(3, 4, 3, bias=False)
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight) + self.bias


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1,), ()])
def test_a_bias_of_another_shape_is_learnt_as_it_is(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(Shifted(shape), nn.Flatten(), nn.LazyLinear(2)),
        torch.randn(40, 3, 6, 6),
    )
    model.eval()(inputs)
    adam = learner(model, inputs)
    before = [one.detach().clone() for one in model[0].parameters()]
    adam.learn(model(inputs).square().mean(), RATE)
    assert not any(map(torch.equal, before, model[0].parameters()))


def test_a_bias_of_two_layers(net: Any) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.bias = first.bias
    model = net(lambda m, x: m.second(m.first(x).relu()), first=first, second=second).eval()
    inputs = 2 + torch.randn(40, 5)
    adam, losses = learner(model, inputs), []
    for _ in range(100):
        losses.append((model(inputs) - 3).square().mean())
        adam.learn(losses[-1], RATE)
    assert model.first.bias is model.second.bias
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, inputs = posed("linear")
    model, inputs = model.to(dtype), inputs.to(dtype)
    adam, losses = learner(model, inputs), []
    for _ in range(30):
        losses.append(model(inputs).square().mean())
        adam.learn(losses[-1], RATE)
    assert losses[-1] < 0.5 * losses[0]
    assert all(one.dtype == dtype for one in model.parameters())


def test_outputs_whose_weights_are_zero_learn() -> None:
    model, inputs = posed("linear")
    with torch.no_grad():
        model[0].weight[2] = 0
    adam = learner(model, inputs)
    bias = float(model[0].bias[2].detach())
    for _ in range(30):
        adam.learn((model(inputs) - 5).square().mean(), RATE)
    assert abs(float(model[0].bias[2].detach()) - bias) > 1e-3
    assert model[0].weight[2].abs().max() > 1e-3


def test_what_requires_no_gradients_stays() -> None:
    model, inputs = posed("linear")
    model[0].bias.requires_grad_(False)
    before = [one.detach().clone() for one in model[0].parameters()]
    adam = learner(model, inputs)
    adam.learn((model(inputs) - 5).square().mean(), RATE)
    assert not torch.equal(model[0].weight, before[0]) and torch.equal(model[0].bias, before[1])
    model[0].requires_grad_(False)
    before = [one.detach().clone() for one in model[0].parameters()]
    adam = learner(model, inputs)
    adam.learn((model(inputs) - 5).square().mean(), RATE)
    assert all(map(torch.equal, before, model[0].parameters()))


def test_a_network_is_trained_folded_and_comes_back_as_it_was_made() -> None:
    """Gains, shifts and statistics that differ; one BN is no layer's only reader, and stays."""
    torch.manual_seed(0)
    given = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6),
        nn.Flatten(), nn.Linear(6 * 36, 4),
    )  # fmt: skip
    for bn in (given[1], given[3]):
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.normal_(bn.bias)
    inputs = torch.randn(32, 3, 8, 8)
    given(inputs)
    given.eval()
    structure = trace(given, inputs[:2]).leaving({"5.bias"})
    found = whitened(given, structure, batches(inputs, 16))
    assert isinstance(found.network[1], nn.Identity) and isinstance(
        found.network[3], nn.BatchNorm2d
    )
    torch.testing.assert_close(found.network(inputs), given(inputs), rtol=1e-4, atol=1e-5)
    trained = copy.deepcopy(found.network)
    adam = found.optimizer(trained)
    for _ in range(5):
        adam.learn((trained(inputs) - 1).square().mean(), RATE)
    back = found.unfolded(trained)
    assert back.state_dict().keys() == given.state_dict().keys()
    torch.testing.assert_close(back(inputs), trained(inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(back(inputs), given(inputs), atol=1e-2)
    assert torch.equal(back[5].bias, given[5].bias)
    assert torch.equal(back[1].running_var, given[1].running_var)


def test_batches_may_differ_in_shape() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sizes = (torch.randn(4, 3, size, size) for size in (6, 7))
    found = find_bases(
        model.eval(), trace(model, torch.randn(1, 3, 6, 6)), [Samples(one, None) for one in sizes]
    )
    assert found["0.weight"].inverse.shape == (27, 27)


def test_buffers_that_training_changed_come_back() -> None:
    given = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    given.register_buffer("seen", torch.zeros(1))
    given.eval()
    inputs = torch.randn(16, 5)
    found = whitened(given, trace(given, inputs[:2]), batches(inputs, 16))
    trained = copy.deepcopy(found.network)
    trained.seen += 3
    assert found.unfolded(trained).seen == 3 and given.seen == 0
