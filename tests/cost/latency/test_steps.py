from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

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


def test_a_page_is_drawn(stair_table: Any, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from autoprune.cost.latency.plots import plot

    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 10, 1))
    plot(stair_table(model, torch.randn(1, 3, 8, 8)), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "conv2d 3x3 3 to 32 channels" in page and "foretold without it" in page
    assert 'src="http' not in page
