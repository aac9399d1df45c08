from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from msgspec.structs import replace
from torch import nn

from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.curves import Curve, LayerLatency, Surface
from autoprune.cost.latency.model import FIXED, OTHER, LatencyCost
from autoprune.cost.latency.signature import Signature
from autoprune.engine.latency_table import width_multiple
from autoprune.errors import TableError
from autoprune.options.search import SearchConfig
from autoprune.profiling.subject import Subject, spread_widths
from autoprune.structure.tracing.trace import trace

SLOW = pytest.param("mobilenet_v2", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["resnet18", SLOW])
def test_a_known_device_is_predicted(name: str, stairs: Any, stair_table: Any) -> None:
    """Sums of layers plus half a millisecond: what remains is between the measured widths."""
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, 64, 64)
    structure, table = trace(model, image), stair_table(model, image)
    cost, subject = LatencyCost(structure, table), Subject(model, structure, image)
    backend = stairs(Conditions(backend="stairs"))
    errors = []
    for widths in spread_widths(structure, count=8, seed=7):
        run = backend.network(subject.cut_to(widths), image)
        errors.append(abs(cost.total(widths) / run() - 1))
    assert np.median(errors) < 0.03
    assert table.correction.relative_error is not None and table.correction.relative_error < 0.05


def kinds() -> nn.Sequential:
    """Layers that are aligned in every way there is."""
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 48, 3, padding=1, groups=48),
        nn.Conv2d(48, 40, 1),
        nn.ConvTranspose2d(40, 32, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def test_a_device_that_is_slow_at_misaligned_widths_is_predicted(
    stair_table: Any, aligned_backend: Any
) -> None:
    model, image = kinds().eval(), torch.randn(1, 3, 16, 16)
    structure, table = trace(model, image), stair_table(model, image, aligned_backend)
    assert [one.alignment for one in table.layers] == [1, 4, 4, 4, 4]
    assert table.call_ms == aligned_backend.call_ms
    cost, random = LatencyCost(structure, table), np.random.default_rng(0)
    subject = Subject(model, structure, image)
    for _ in range(20):
        widths = tuple(int(random.integers(4, size + 1)) for size in structure.dense_widths)
        for some in (widths, tuple(width // 4 * 4 for width in widths)):
            real = aligned_backend.network(subject.cut_to(some), image)()
            assert cost.total(some) == pytest.approx(real, rel=0.03)
            assert sum(cost.by_layer(some).values()) == pytest.approx(cost.total(some))


def test_groups_that_all_lose_channels_are_predicted(
    net: Any, stair_table: Any, aligned_backend: Any
) -> None:
    """A convolution that keeps its groups is timed at fewer inputs and outputs of each."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x)).unflatten(1, (2, -1)).sum(1)),
        a=nn.Conv2d(3, 64, 3),
        b=nn.Conv2d(64, 96, 3, groups=2),
        c=nn.Conv2d(48, 10, 3),
    ).eval()
    image = torch.randn(1, 3, 12, 12)
    structure, table = trace(model, image), stair_table(model, image, aligned_backend)
    cost, subject = LatencyCost(structure, table), Subject(model, structure, image)
    assert structure.dense_widths == (32, 48)
    assert {one.dense.channels_in: one.dense.across for one in table.layers}[64]
    for widths in itertools.product((8, 16, 32), (8, 24, 48)):
        real = aligned_backend.network(subject.cut_to(widths), image)()
        assert cost.total(widths) == pytest.approx(real, rel=0.03)


def test_networks_of_the_fit_without_misaligned_layers_do_not_make_these_free(
    stair_table: Any, aligned_backend: Any
) -> None:
    """Features behind a flattened image come in 64s: always aligned."""
    image = torch.randn(1, 3, 8, 8)
    flat = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.Flatten(), nn.Linear(24 * 64, 10))
    table = stair_table(flat, image, aligned_backend)
    assert table.correction.coefficients.odd_ms == 1.0
    pooled = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
    )
    by_layer = LatencyCost(trace(pooled, image), table).by_layer
    assert by_layer((23,))["3"] > by_layer((24,))["3"]


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 10, 1))


def test_layers_sum_up_to_the_network(stair_table: Any) -> None:
    model, image = two_layers(), torch.randn(1, 3, 8, 8)
    cost = LatencyCost(trace(model, image), stair_table(model, image))
    for width in (32, 20, 1):
        by_layer = cost.by_layer((width,))
        assert by_layer.keys() == {"0", "2", OTHER, FIXED}
        assert sum(by_layer.values()) == pytest.approx(cost.total((width,)))


def test_a_layer_that_was_not_measured_is_refused(stair_table: Any) -> None:
    table = stair_table(two_layers(), torch.randn(1, 3, 8, 8))
    for model, image in (
        (two_layers(), torch.randn(1, 3, 9, 9)),
        (nn.Sequential(nn.Conv2d(3, 33, 3), nn.Conv2d(33, 10, 1)), torch.randn(1, 3, 8, 8)),
    ):
        with pytest.raises(TableError, match=r"no layer conv2d 3x3 3 to 3. channels on .x."):
            LatencyCost(trace(model, image), table)


def test_a_narrower_layer_of_the_same_kind_is_found(stair_table: Any) -> None:
    table = stair_table(two_layers(), torch.randn(1, 3, 8, 8))
    model, image = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 10, 1)), torch.zeros(1, 3, 8, 8)
    wide, narrow = (trace(m, image) for m in (two_layers(), model))
    assert LatencyCost(narrow, table).by_layer((24,))["0"] == pytest.approx(
        LatencyCost(wide, table).by_layer((24,))["0"]
    )


def test_what_a_device_favours_is_asked_of_the_networks_own_layers(stair_table: Any) -> None:
    model, image = two_layers(), torch.randn(1, 3, 8, 8)
    table = stair_table(model, image)
    every = tuple(float(n) for n in range(1, 513))
    slope = Curve(tuple(range(1, 513)), every, (0.0,) * 512)
    other = Signature("linear", 512, 512, (), (), (), (), 1, ())
    foreign = LayerLatency(other, 1, (Surface(slope, slope, (512,), (512,), ((1.0,),)),))
    both = replace(table, layers=(*table.layers, foreign))
    config = SearchConfig("latency=0.5", round_to="auto")
    steps = [
        width_multiple(config, {"latency": LatencyCost(trace(model, image), one)})
        for one in (table, both)
    ]
    assert steps[0] == steps[1] > 1


def test_another_batch_or_data_type_is_refused(stair_table: Any) -> None:
    table = stair_table(two_layers(), torch.randn(1, 3, 8, 8))
    table.check(batch=1, dtype="float32")
    with pytest.raises(TableError, match=r"batch 1, not 8.*--batch 8"):
        table.check(batch=8, dtype="float32")
    with pytest.raises(TableError, match=r"float32.*float16.*--dtype float16"):
        table.check(batch=1, dtype="float16")
