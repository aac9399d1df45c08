from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics import moments as moments_module
from autoprune.statistics.collect import collect_moments
from autoprune.statistics.moments import (
    Moments,
    MomentSum,
    draw_positions,
    matrix_of,
    outputs_at,
    patches,
)
from autoprune.structure.groups import LayerSpec
from autoprune.structure.tracing.trace import trace


def layer_of(module: nn.Module, source: Tensor) -> LayerSpec:
    return trace(nn.Sequential(module), source).layers[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moments_of(layer: LayerSpec, source: Tensor, batch: int, positions: int = 10**6) -> Moments:
    total = MomentSum(layer, source.shape[1], source.device)
    for part in torch.split(source, batch):
        total.add(part, positions, generator())
    return total.moments()


GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_patches_are_the_columns_of_unfold(geometry: dict[str, Any]) -> None:
    source = torch.randn(3, 4, 7, 9)
    layer = layer_of(nn.Conv2d(4, 5, **geometry), source)
    everywhere = draw_positions(layer, 3, 10**6, generator())
    expected = (
        F.unfold(source, **geometry).transpose(1, 2).reshape(-1, 4 * np.prod(layer.kernel_size))
    )
    assert torch.equal(patches(layer, source, everywhere), expected)


@pytest.mark.parametrize("stride", [2, 3])
def test_a_transposed_layer_multiplies_pixels(stride: int) -> None:
    """Where taps do not overlap, every output is one row of the matrix times one pixel."""
    source, conv = torch.randn(3, 4, 5, 6), nn.ConvTranspose2d(4, 5, 2, stride=stride, bias=False)
    layer = layer_of(conv, source)
    rows = patches(layer, source, draw_positions(layer, 3, 10**6, generator()))
    made = rows @ matrix_of(layer, conv.weight.detach()).T
    blocks = F.unfold(conv(source), 2, stride=stride).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(made, blocks)


def test_patches_of_volumes_times_the_weight_are_the_output() -> None:
    source, conv = torch.randn(2, 3, 5, 6, 7), nn.Conv3d(3, 4, (2, 3, 1), 2, padding=(1, 0, 2))
    layer = layer_of(conv, source)
    rows = patches(layer, source, draw_positions(layer, 2, 10**6, generator()))
    made = rows @ matrix_of(layer, conv.weight.detach()).T + conv.bias
    torch.testing.assert_close(made, conv(source).flatten(2).transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, {"kernel_size": 5, "padding": "same"}], ids=str)
def test_weight_times_patches_is_the_output(geometry: dict[str, Any]) -> None:
    source, conv = torch.randn(3, 4, 7, 9), nn.Conv2d(4, 5, bias=False, **geometry)
    layer = layer_of(conv, source)
    chosen = draw_positions(layer, 3, 6, generator())
    assert chosen.shape == (3, 6)
    made = patches(layer, source, chosen) @ conv.weight.flatten(1).T
    torch.testing.assert_close(made, outputs_at(layer, conv(source), chosen))


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4), (6, 2, 3, 4)])
def test_linear_layers_read_tokens(shape: tuple[int, ...]) -> None:
    source, linear = torch.randn(shape), nn.Linear(4, 3, bias=False)
    layer = layer_of(linear, source)
    everywhere = draw_positions(layer, 6, 10**6, generator())
    assert torch.equal(patches(layer, source, everywhere), source.reshape(-1, 4))
    assert torch.equal(outputs_at(layer, linear(source), everywhere), linear(source).reshape(-1, 3))


def test_patches_of_one_dimension() -> None:
    source, conv = torch.randn(3, 4, 9), nn.Conv1d(4, 5, 3, stride=2, padding=1, bias=False)
    layer = layer_of(conv, source)
    everywhere = draw_positions(layer, 3, 99, generator())
    made = patches(layer, source, everywhere) @ conv.weight.flatten(1).T
    torch.testing.assert_close(made.reshape(3, -1, 5).transpose(1, 2), conv(source))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_moments_are_those_of_numpy(batch: int) -> None:
    source = torch.randn(100, 6) @ torch.randn(6, 6) + torch.arange(6.0)
    moments = moments_of(layer_of(nn.Linear(6, 3), source), source, batch)
    rows = source.double().numpy()
    assert moments.count == 100
    assert moments.is_full
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        moments.covariance, np.cov(rows, rowvar=False, bias=True), rtol=1e-5, atol=1e-6
    )


def test_small_variances_far_from_zero_survive() -> None:
    source = 1000 + torch.randn(2000, 3, generator=generator()) * torch.tensor([1.0, 0.01, 1.0])
    moments = moments_of(layer_of(nn.Linear(3, 2), source), source, 250)
    expected = torch.cov(source.double().T, correction=0)
    torch.testing.assert_close(moments.covariance, expected, rtol=1e-3, atol=1e-5)
    assert torch.linalg.eigvalsh(moments.covariance).min() > 0


def test_above_the_cap_only_the_diagonal_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.randn(50, 6)
    layer = layer_of(nn.Linear(6, 3), source)
    full = moments_of(layer, source, 10)
    monkeypatch.setattr(moments_module, "LARGEST_PATCH", 5)
    diagonal = moments_of(layer, source, 10)
    assert not diagonal.is_full
    torch.testing.assert_close(
        diagonal.covariance, full.covariance.diagonal(), rtol=1e-5, atol=1e-6
    )


def small_model(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, **options), nn.Conv2d(5, 2, 1)
    ).eval()


def test_collects_every_refittable_consumer_once_and_leaves_no_hook() -> None:
    model, images = small_model(), torch.randn(12, 3, 8, 8)
    structure = trace(model, images)
    seen: list[tuple[int, int]] = []
    collected = collect_moments(
        model,
        structure,
        Samples(images, None),
        0,
        5,
        lambda done, total: seen.append((done, total)),
    )
    assert {name: m.count for name, m in collected.items()} == {"2.weight": 60, "3.weight": 60}
    assert {name: len(m.mean) for name, m in collected.items()} == {"2.weight": 36, "3.weight": 5}
    assert seen == [(12, 12)]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_equal_seeds_give_equal_moments() -> None:
    model, images = small_model(), torch.randn(12, 3, 8, 8)
    structure = trace(model, images)
    a, b, c = (
        collect_moments(model, structure, Samples(images, None), seed, 4)["2.weight"].covariance
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("options", "refittable"),
    [
        ({"padding": "same"}, True),
        ({"padding": "valid"}, True),
        ({"padding": "same", "kernel_size": 2}, False),
        ({"padding": 1, "padding_mode": "reflect"}, True),
    ],
    ids=str,
)
def test_one_sided_padding_is_not_refitted(options: dict[str, Any], refittable: bool) -> None:
    conv = nn.Conv2d(4, 5, **{"kernel_size": 3, **options})
    model = nn.Sequential(nn.Conv2d(3, 4, 3), conv, nn.Conv2d(5, 2, 1)).eval()
    images = torch.randn(4, 3, 8, 8)
    collected = collect_moments(model, trace(model, images), Samples(images, None), 0)
    assert ("1.weight" in collected) == refittable


def test_unusual_calls_of_layers(net: Any) -> None:
    """By keyword, by its weight alone, and at a second resolution."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(input=m.stem(x))
        h = F.conv2d(h, m.b.weight, m.b.bias)
        out: Tensor = m.out(m.c(h).mean((2, 3)) + m.c(F.avg_pool2d(h, 2)).mean((2, 3)))
        return out

    model = net(
        forward,
        stem=nn.Conv2d(3, 4, 1), a=nn.Conv2d(4, 5, 1), b=nn.Conv2d(5, 6, 1),
        c=nn.Conv2d(6, 7, 1), out=nn.Linear(7, 2),
    ).eval()  # fmt: skip
    images = torch.randn(4, 3, 8, 8)
    collected = collect_moments(model, trace(model, images), Samples(images, None), 0, 10**6)
    counts = {name: m.count for name, m in collected.items()}
    assert counts == {"a.weight": 256, "b.weight": 256, "c.weight": 256, "out.weight": 4}
    assert all(bool(m.mean.isfinite().all()) for m in collected.values())
