"""Second-order changes of the output beside those of a network that is changed a little."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.errors import ModelError
from autoprune.statistics import curvature as module
from autoprune.statistics.curvature import Change, output_changes
from autoprune.structure.tracing.trace import trace

TEMPERATURE = 2.0
IMAGES = torch.randn(600, 3, 6, 6, generator=torch.Generator().manual_seed(0))
SAMPLES = Samples(IMAGES, None)


class Tokens(nn.Module):
    """A convolution, a linear layer on every pixel, called twice, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).relu().flatten(2).transpose(1, 2)
        tokens = self.mix(tokens).relu_()
        return self.head(self.mix(tokens).relu_().mean(1))


def plain() -> nn.Module:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
    return nn.Sequential(*layers, pool)


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(6, 6, 2, stride=2)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), up, nn.ReLU(), head)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def changed(model: nn.Module, weight: str, change: Change, number: int) -> nn.Module:
    small = copy.deepcopy(model)
    with torch.no_grad():
        tensor = small.get_parameter(weight)
        tensor += change.weight[number].view_as(tensor)
        small.get_submodule(weight.rpartition(".")[0]).bias += change.shift[number]
    return small


def random_change(model: nn.Module, weight: str, size: float = 0.01) -> Change:
    tensor = model.get_parameter(weight)
    out = len(model.get_submodule(weight.rpartition(".")[0]).bias)
    random = torch.Generator().manual_seed(2)
    noise = torch.randn(3, tensor.numel(), generator=random)
    return Change(size * noise, size * torch.randn(3, out, generator=random))


def soft_kl(dense: Tensor, small: Tensor) -> float:
    p, q = ((z.double() / TEMPERATURE).log_softmax(1) for z in (dense, small))
    return float(TEMPERATURE**2 * (p.exp() * (p - q)).sum(1).mean())


@pytest.mark.parametrize("batch", [50, 7])
@pytest.mark.parametrize(
    ("make", "weight"),
    [
        *[(plain, f"{name}.weight") for name in ("0", "2", "4.2")],
        *[(Tokens, f"{name}.weight") for name in ("stem", "mix", "head")],
        (transposed, "2.weight"),
    ],
)
def test_a_small_change_of_weights(
    make: Any, weight: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    model = made(make)
    change = random_change(model, weight)
    structure = trace(model, IMAGES[:2])
    draws = [
        output_changes(model, structure, {"a": {weight: change}}, SAMPLES, TEMPERATURE, s)
        for s in range(8)
    ]
    expected = torch.stack([draw["a"] for draw in draws]).mean(0)
    with torch.no_grad():
        dense = model(IMAGES)
        real = [soft_kl(dense, changed(model, weight, change, i)(IMAGES)) for i in range(3)]
    assert torch.allclose(expected, torch.tensor(real).double(), rtol=0.15)


def test_changes_of_one_name_add_up_before_they_are_squared() -> None:
    """Two layers that undo each other change nothing."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    step = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    first = Change(step.flatten(1), torch.zeros(1, 4))
    second = Change(-(model[1].weight.detach() @ step[0]).flatten()[None], torch.zeros(1, 3))
    changes = {
        "both": {"0.weight": first, "1.weight": second},
        "first": {"0.weight": first},
    }
    found = output_changes(model, trace(model, x[:2]), changes, Samples(x, None), 1.0, 0)
    assert found["first"] > 1e-3
    assert found["both"] < 1e-9 * found["first"]


def test_outputs_that_are_no_class_scores() -> None:
    """Half the squared change by the variance of the output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=True)).eval()
    change = random_change(model, "2.weight")
    structure = trace(model, IMAGES[:2])
    draws = [
        output_changes(model, structure, {"a": {"2.weight": change}}, SAMPLES, 1.0, s)["a"]
        for s in range(8)
    ]
    with torch.no_grad():
        dense = model(IMAGES)
        differences = [changed(model, "2.weight", change, i)(IMAGES) - dense for i in range(3)]
    # The variance is that of a batch.
    real = [float(d.square().flatten(1).sum(1).mean() / 2 / dense.var()) for d in differences]
    assert torch.allclose(torch.stack(draws).mean(0), torch.tensor(real).double(), rtol=0.15)


def test_nothing_is_left_on_the_network() -> None:
    model = made(plain)
    model[0].weight.requires_grad_(False)
    change = {"a": {"2.weight": random_change(model, "2.weight")}}
    output_changes(model, trace(model, IMAGES[:2]), change, Samples(IMAGES[:9], None), 1.0, 0)
    assert [p.requires_grad for p in model.parameters()] == [False] + 5 * [True]
    assert all(parameter.grad is None for parameter in model.parameters())


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def test_a_network_without_derivatives() -> None:
    model, x = Deaf().eval(), torch.randn(8, 4)
    change = {"a": {"b.weight": random_change(model, "b.weight")}}
    with pytest.raises(ModelError, match="the network's derivatives cannot be taken: "):
        output_changes(model, trace(model, x[:2]), change, Samples(x, None), 1.0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = made(plain)
    change = {"a": {"2.weight": random_change(model, "2.weight")}}
    structure = trace(model, IMAGES[:2])
    single = output_changes(model, structure, change, SAMPLES, TEMPERATURE, 0)["a"]
    other = copy.deepcopy(model).to(dtype)
    samples = Samples(IMAGES.to(dtype), None)
    found = output_changes(other, structure, change, samples, TEMPERATURE, 0)["a"]
    assert found.dtype == torch.float64
    assert torch.allclose(found, single, rtol=1e-5 if dtype == torch.float64 else 0.1)


class Cast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = self.inner(x)
        return out.float()


def test_autocast_in_the_forward_pass() -> None:
    model = made(plain)
    own = random_change(model, "2.weight")
    plainly = output_changes(
        model, trace(model, IMAGES[:2]), {"a": {"2.weight": own}}, SAMPLES, TEMPERATURE, 0
    )
    cast = Cast(model).eval()
    found = output_changes(
        cast, trace(cast, IMAGES[:2]), {"a": {"inner.2.weight": own}}, SAMPLES, TEMPERATURE, 0
    )
    assert torch.allclose(found["a"], plainly["a"], rtol=0.1)


class SequenceFirst(nn.Module):
    """Linear layers on (time, samples, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(2).transpose(0, 1)).relu()).mean(0)


def test_nothing_is_said_of_layers_not_laid_out_by_samples() -> None:
    torch.manual_seed(0)
    model, x = SequenceFirst().eval(), torch.randn(40, 20, 6)
    changes = {
        "one": {"b.weight": random_change(model, "b.weight")},
        "two": {w: random_change(model, w) for w in ("a.weight", "b.weight")},
    }
    assert not output_changes(model, trace(model, x[:2]), changes, Samples(x, None), 1.0, 0)


def test_a_sample_left_over_counts_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outputs alone have no spread to be measured by."""
    monkeypatch.setattr(module, "BATCH", 20)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)).eval()
    x = torch.randn(41, 5, generator=torch.Generator().manual_seed(0))
    change = {"a": {"2.weight": random_change(model, "2.weight")}}
    structure = trace(model, x[:2])
    with_it, without = (
        output_changes(model, structure, change, Samples(some, None), 1.0, 0)["a"]
        for some in (x, x[:40])
    )
    assert (with_it / without < 2).all() and (without / with_it < 2).all()


def test_few_samples_at_once_where_weights_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(plain)
    change = {"a": {"2.weight": random_change(model, "2.weight")}}
    structure = trace(model, IMAGES[:2])
    once = output_changes(model, structure, change, SAMPLES, TEMPERATURE, 0)["a"]
    monkeypatch.setattr(module, "GRADIENT_BYTES", 3 * model[2].weight.nbytes)  # type: ignore[operator]
    assert torch.allclose(
        output_changes(model, structure, change, SAMPLES, TEMPERATURE, 0)["a"], once, rtol=1e-5
    )
