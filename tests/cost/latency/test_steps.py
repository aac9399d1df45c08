from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoprune.cost.latency.curves import Curve, LayerLatency
from autoprune.cost.latency.signature import Signature
from autoprune.cost.latency.steps import favoured_step


def layer(ms: Callable[[int], float], size: int = 128) -> LayerLatency:
    lengths = tuple(range(1, size + 1))
    curve = Curve(lengths, tuple(map(ms, lengths)), (0.0,) * size)
    dense = Signature("linear", size, size, (), (), (), (), 1, ())
    return LayerLatency(dense, curve, curve, (size,), (size,), np.ones((1, 1)))


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_edges_of_a_staircase_are_favoured(step: int) -> None:
    assert favoured_step([layer(lambda n: 1.0 + -(-n // step))]) == step


def test_on_a_slope_every_channel_counts() -> None:
    assert favoured_step([layer(lambda n: float(n))]) == 1


def test_long_layers_decide() -> None:
    stairs = layer(lambda n: 100.0 * -(-n // 16))
    assert favoured_step([stairs, layer(lambda n: 0.001 * n)]) == 16
