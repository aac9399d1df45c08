from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.data import Samples
from autoprune.reconstruction.batchnorm import (
    BATCH,
    fold_batchnorm,
    reestimate_batchnorm,
    unfold_batchnorm,
)
from autoprune.structure.tracing.trace import trace


def model_of() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Dropout(0.9), nn.Linear(6, 5),
        nn.BatchNorm1d(5, track_running_stats=False), nn.BatchNorm1d(5),
    ).eval()  # fmt: skip


def test_one_batch_gives_its_own_statistics() -> None:
    model, x = model_of(), torch.randn(64, 4) * 3 + 1
    with torch.no_grad():
        hidden = model[0](x)
    reestimate_batchnorm(model, Samples(x, None))
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))


def test_several_batches_count_equally() -> None:
    model, x = model_of(), torch.randn(4 * BATCH, 4)
    with torch.no_grad():
        hidden = model[0](x)
    reestimate_batchnorm(model, Samples(x, None))
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    variance = hidden.reshape(4, BATCH, 6).var(1).mean(0)
    torch.testing.assert_close(model[1].running_var, variance, rtol=1e-4, atol=1e-5)


def test_dropout_stays_off_so_that_it_is_deterministic() -> None:
    x = torch.randn(64, 4)
    a, b = model_of(), model_of()
    for model in (a, b):
        reestimate_batchnorm(model, Samples(x, None))
    assert torch.equal(a[5].running_mean, b[5].running_mean)
    assert a[5].running_mean.abs().max() > 0


def test_flags_momenta_and_weights_come_back() -> None:
    model = model_of()
    before = {name: p.clone() for name, p in model.named_parameters()}
    reestimate_batchnorm(model, Samples(torch.randn(64, 4), None))
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.3
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_happens_without_batch_norm() -> None:
    reestimate_batchnorm(nn.Linear(4, 2), Samples(torch.randn(3, 5), None))


def normalised(layer: nn.Module, norm: nn.Module) -> list[nn.Module]:
    """Give a BN statistics and gains that matter."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2.0)
    return [layer, norm]


LAYERS: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
    "conv": (normalised(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), (3, 8, 8)),
    "conv without bias": (
        normalised(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)),
        (3, 8, 8),
    ),
    "BN without gain": (
        normalised(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)),
        (3, 8, 8),
    ),
    "1d": (normalised(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (3, 8)),
    "depthwise": (normalised(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), (3, 8, 8)),
    "linear": (normalised(nn.Linear(3, 6), nn.BatchNorm1d(6)), (3,)),
    "linear without bias": (normalised(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6)), (3,)),
    "linear, BN without gain": (
        normalised(nn.Linear(3, 6), nn.BatchNorm1d(6, affine=False)),
        (3,),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_folding_keeps_the_outputs(kind: str) -> None:
    torch.manual_seed(0)
    layers, shape = LAYERS[kind]
    model = copy.deepcopy(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))).eval()
    inputs = torch.randn(5, *shape)
    with torch.no_grad():
        dense = model(inputs)
        folded = fold_batchnorm(model, trace(model, inputs))
        torch.testing.assert_close(folded(inputs), dense, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(inputs), dense)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert any(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize("dead", ["none", "one", "all"])
@pytest.mark.parametrize("kind", LAYERS)
def test_unfolding_keeps_what_was_learnt(kind: str, dead: str) -> None:
    torch.manual_seed(0)
    layers, shape = LAYERS[kind]
    model = copy.deepcopy(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))).eval()
    inputs = torch.randn(5, *shape)
    with torch.no_grad():
        model(inputs)
        if dead != "none" and model[1].weight is not None:
            model[1].weight[slice(1, 2) if dead == "one" else slice(None)] = 1e-9 * (dead == "one")
        structure = trace(model, inputs)
        folded = fold_batchnorm(model, structure)
        for parameter in folded.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = copy.deepcopy(model.state_dict())
        unfolded = unfold_batchnorm(folded, model, structure)
        torch.testing.assert_close(unfolded(inputs), folded(inputs), rtol=1e-4, atol=1e-5)
    assert unfolded.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_bias_that_layers_share_or_that_is_no_parameter(net: Any) -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 4, 3), "b": nn.Conv2d(4, 4, 3), "c": nn.Conv2d(4, 4, 1, bias=False)}
    parts |= {f"bn{name}": normalised(parts[name], nn.BatchNorm2d(4))[1] for name in "abc"}
    parts["b"].bias = parts["a"].bias
    del parts["c"].bias
    parts["c"].register_buffer("bias", torch.ones(4))
    model = net(
        lambda m, x: m.bnc(m.c(m.bnb(m.b(m.bna(m.a(x)).relu())).relu())).mean((2, 3)), **parts
    ).eval()
    inputs = torch.randn(5, 3, 8, 8)
    structure = trace(model, inputs)
    with torch.no_grad():
        folded = fold_batchnorm(model, structure)
        torch.testing.assert_close(folded(inputs), model(inputs), rtol=1e-4, atol=1e-5)
        for parameter in folded.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        unfolded = unfold_batchnorm(folded, model, structure)
        torch.testing.assert_close(unfolded(inputs), folded(inputs), rtol=1e-4, atol=1e-5)


class Kernel(nn.Module):
    """A convolution whose weight is called otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel)


def otherwise(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(m.kernel(x)).mean((2, 3)))  # type: ignore[no-any-return]


def without_its_bias(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(nn.functional.conv2d(x, m.conv.weight)).mean((2, 3)))  # type: ignore[no-any-return]


def weight_alone(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(nn.functional.conv2d(x, m.bare.weight)).mean((2, 3)))  # type: ignore[no-any-return]


def two_readers(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    return m.head((m.bn(h) + h).mean((2, 3)))  # type: ignore[no-any-return]


def one_norm_for_two(m: Any, x: Tensor) -> Tensor:
    return m.head((m.bn(m.conv(x)) + m.bn(m.other(x))).mean((2, 3)))  # type: ignore[no-any-return]


def one_norm_for_a_sum_too(m: Any, x: Tensor) -> Tensor:
    return m.head((m.bn(m.conv(x)) + m.bn(m.other(x) + x)).mean((2, 3)))  # type: ignore[no-any-return]


class NormWithActivation(nn.BatchNorm2d):
    """As timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def acting(m: Any, x: Tensor) -> Tensor:
    return m.head(m.acting(m.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def twice(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(m.conv(m.bn(m.conv(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def activation_between(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(m.conv(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


def transposed(m: Any, x: Tensor) -> Tensor:
    return m.head(m.bn(m.up(x)).mean((2, 3)))  # type: ignore[no-any-return]


def tokens(m: Any, x: Tensor) -> Tensor:
    """A BN over the second of (n, tokens, features): not over the linear layer's outputs."""
    return m.head(m.over_tokens(m.linear(x.flatten(2))).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "forward",
    [
        *(two_readers, one_norm_for_two, one_norm_for_a_sum_too, acting, twice),
        *(activation_between, transposed, tokens, otherwise, without_its_bias, weight_alone),
    ],
)
def test_what_cannot_be_folded_keeps_its_outputs(forward: Any, net: Any) -> None:
    torch.manual_seed(0)
    parts = {"conv": nn.Conv2d(3, 3, 3, padding=1), "other": nn.Conv2d(3, 3, 3, padding=1)}
    parts |= {"bn": nn.BatchNorm2d(3), "over_tokens": nn.BatchNorm1d(3), "head": nn.Linear(3, 2)}
    parts |= {"acting": NormWithActivation(3), "kernel": Kernel()}
    parts |= {"linear": nn.Linear(16, 3), "up": nn.ConvTranspose2d(3, 3, 2)}
    parts |= {"bare": nn.Conv2d(3, 3, 3, bias=False)}
    normalised(parts["conv"], parts["bn"])
    normalised(parts["conv"], parts["over_tokens"])
    model, inputs = net(forward, **parts).eval(), torch.randn(5, 3, 4, 4)
    with torch.no_grad():
        dense = model(inputs)
        folded = fold_batchnorm(model, trace(model, inputs))
        torch.testing.assert_close(folded(inputs), dense, rtol=1e-5, atol=1e-5)
        for parameter in folded.parameters():
            parameter.mul_(1.1)
        unfolded = unfold_batchnorm(folded, model, trace(model, inputs))
        torch.testing.assert_close(unfolded(inputs), folded(inputs), rtol=1e-4, atol=1e-5)


def test_statistics_that_are_to_stay_do() -> None:
    model, x = model_of(), torch.randn(64, 4)
    reestimate_batchnorm(model, Samples(x, None), {"1.running_mean", "1.running_var"})
    assert torch.equal(model[1].running_mean, torch.zeros(6)) and not model[1].training
    assert model[5].running_mean.abs().max() > 0


def test_gains_and_shifts_that_are_frozen_stay_whatever_is_measured_or_learnt() -> None:
    """Statistics follow the data; a layer and its BN are learnt as one only where both may be."""
    model = copy.deepcopy(nn.Sequential(*LAYERS["conv"][0], nn.Flatten())).eval()
    inputs = torch.randn(5, *LAYERS["conv"][1])
    model[1].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    structure = trace(model, inputs).leaving({"1.weight", "1.bias"})
    with torch.no_grad():
        reestimate_batchnorm(model, Samples(inputs, None), structure.untouched)
        scored = fold_batchnorm(model, structure)
        learner = fold_batchnorm(model, structure, to_train=True)
        torch.testing.assert_close(scored(inputs), model(inputs), rtol=1e-4, atol=1e-5)
        learner[0].weight.mul_(2)
        unfolded: Any = unfold_batchnorm(learner, model, structure)
        torch.testing.assert_close(unfolded(inputs), learner(inputs))
    assert isinstance(scored[1], nn.Identity) and isinstance(learner[1], _BatchNorm)
    assert torch.equal(unfolded[0].weight, 2 * before["0.weight"])
    assert not torch.equal(unfolded[1].running_mean, before["1.running_mean"])
    assert all(
        torch.equal(unfolded[1].state_dict()[k], before[f"1.{k}"]) for k in ("weight", "bias")
    )
