from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.data import Samples
from autoprune.statistics import activations as module
from autoprune.statistics import gradients
from autoprune.statistics.activations import collect_activations
from autoprune.statistics.gradients import taylor_terms
from autoprune.structure.tracing.trace import trace

IMAGES = torch.randn(50, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def convolutions() -> Any:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).eval()


def test_statistics_of_the_consumers_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as on all activations at once, although batches are small."""
    monkeypatch.setattr(module, "BATCH", 7)
    model, labels = convolutions(), torch.arange(50) % 3
    found = collect_activations(model, trace(model, IMAGES), Samples(IMAGES, labels))
    assert set(found) == {"3.weight", "5.weight"}
    with torch.no_grad():
        values = model[:3](IMAGES)
    seen = found["3.weight"]
    dims = (0, 2, 3)
    assert torch.allclose(seen.magnitude, values.abs().mean(dims).double(), atol=1e-6)
    assert torch.allclose(seen.active, (values > 0).double().mean(dims), atol=1e-12)
    assert torch.allclose(seen.deviation, values.double().std(dims, correction=0), atol=1e-5)
    pooled = values.mean((2, 3)).double()
    assert seen.classes is not None
    for row, label in enumerate(range(3)):
        own = pooled[labels == label]
        assert torch.allclose(seen.classes.mean[row], own.mean(0), atol=1e-6)
        assert torch.allclose(seen.classes.variance[row], own.var(0, correction=0), atol=1e-6)


def test_groups_that_lose_the_same_channels_are_positions(net: Any) -> None:
    """What a convolution reads at one entry of its weight is read by every group."""
    torch.manual_seed(0)
    model = net(
        lambda m, x: m.head(m.b(m.a(x)).unflatten(1, (2, -1)).sum((1, 3, 4))),
        a=nn.Conv2d(3, 6, 3),
        b=nn.Conv2d(6, 8, 3, groups=2),
        head=nn.Linear(4, 3),
    ).eval()
    found = collect_activations(model, trace(model, IMAGES), Samples(IMAGES, None))
    values = model.a(IMAGES).detach().unflatten(1, (2, 3)).double()
    assert torch.allclose(found["b.weight"].magnitude, values.abs().mean((0, 1, 3, 4)), atol=1e-6)


def test_classes_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent ones, of two samples or more."""
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    model = convolutions()
    labels = torch.tensor([7] * 20 + [2] * 18 + [900] * 11 + [4])
    (seen, _) = collect_activations(model, trace(model, IMAGES), Samples(IMAGES, labels)).values()
    assert seen.classes is not None and len(seen.classes.mean) == 3
    monkeypatch.setattr(module, "MOST_CLASSES", 9)
    (seen, _) = collect_activations(model, trace(model, IMAGES), Samples(IMAGES, labels)).values()
    assert seen.classes is not None and len(seen.classes.mean) == 3
    (seen, _) = collect_activations(model, trace(model, IMAGES), Samples(IMAGES, None)).values()
    assert seen.classes is None


def test_tokens_folded_into_the_batch_belong_to_their_sample(net: Any) -> None:
    """A linear layer over windows reads samples x windows rows."""
    model = net(
        lambda m, x: m.b(m.a(x.reshape(-1, 4)).relu()).reshape(len(x), -1, 2).mean(1),
        a=nn.Linear(4, 5),
        b=nn.Linear(5, 2),
    ).eval()
    inputs = torch.randn(6, 3, 4)
    structure = trace(model, inputs)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    (seen,) = collect_activations(model, structure, Samples(inputs, labels)).values()
    with torch.no_grad():
        by_sample = model.a(inputs).relu().mean(1).double()
    assert seen.classes is not None
    assert torch.allclose(seen.classes.mean[0], by_sample[:3].mean(0), atol=1e-6)


def test_taylor_terms_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = convolutions(), Samples(IMAGES, torch.arange(50) % 3)
    structure = trace(model, IMAGES)
    at_once = taylor_terms(model, structure, samples)
    monkeypatch.setattr(gradients, "ACTIVATION_BYTES", 1)
    one_by_one = taylor_terms(model, structure, samples)
    for a, b in zip(at_once, one_by_one, strict=True):
        assert torch.allclose(a, b, rtol=1e-4) and bool((a > 0).all())


def test_taylor_terms_are_the_first_order_change_of_the_loss() -> None:
    """Shrinking a unit a little for one sample changes the loss by its term."""
    model, samples = convolutions().double(), Samples(IMAGES[:1].double(), torch.tensor([1]))
    structure = trace(model, IMAGES[:1].double())
    terms = taylor_terms(model, structure, samples)[0]
    step = 1e-6
    with torch.no_grad():
        dense = nn.functional.cross_entropy(model(samples.inputs), samples.targets)
        for unit in range(5):
            model[3].weight[:, unit] *= 1 - step
            less = nn.functional.cross_entropy(model(samples.inputs), samples.targets)
            model[3].weight[:, unit] /= 1 - step
            change = float(less - dense) / step
            assert abs(change) == pytest.approx(float(terms[unit]), rel=1e-3, abs=1e-8)
