from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost.latency.table import LatencyTable
from autoprune.errors import UsageError
from autoprune.profiling import plots


@pytest.fixture(scope="module")
def table(stair_table: Any) -> LatencyTable:
    pytest.importorskip("plotly")
    sizes = [3, *range(20, 33), 10]
    convolutions = [nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes)]
    found: LatencyTable = stair_table(nn.Sequential(*convolutions), torch.randn(1, 3, 8, 8))
    return found


def test_a_page_needs_nothing_but_itself(table: LatencyTable, tmp_path: Path) -> None:
    plots.plot(table, tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    assert "conv2d 1x1 3 to 20 channels" in page
    assert not re.search(r"<(script[^>]*src|link)", page)


def test_both_widths_of_a_layer_stand_under_one_name(table: LatencyTable) -> None:
    figure = plots.figure(table)
    layers = [trace for trace in figure.data if trace.legendgroup is not None]
    names = [trace.name for trace in layers if trace.showlegend]
    assert sorted(names) == sorted(str(layer.dense) for layer in table.layers)
    for trace in layers:
        (layer,) = (one for one in table.layers if str(one.dense) == trace.name)
        (surface,) = layer.surfaces
        curve = surface.outputs if trace.xaxis == "x" else surface.inputs
        assert (trace.x, trace.y) == (curve.lengths, curve.ms)
        assert trace.error_y.array == curve.spread_ms
    # The image's channels and the classes cannot be cut.
    drawn = {(trace.name, trace.xaxis) for trace in layers}
    assert ("conv2d 1x1 3 to 20 channels on 8x8", "x2") not in drawn
    assert ("conv2d 1x1 32 to 10 channels on 8x8", "x") not in drawn
    assert len(drawn) == 2 * len(table.layers) - 2


def test_misaligned_widths_are_dotted(stair_table: Any, aligned_backend: Any) -> None:
    pytest.importorskip("plotly")
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 9, 1))
    table = stair_table(model, torch.randn(1, 3, 8, 8), aligned_backend)
    dotted = [one for one in plots.figure(table).data if one.line.dash == "dot"]
    assert sorted((one.name.split(" in ")[0].split(" on ")[0], one.xaxis) for one in dotted) == [
        ("conv2d 1x1 24 to 9 channels", "x2"),
        ("conv2d 3x3 24 to 24 channels", "x"),
    ]


def test_the_slowest_layers_are_shown(table: LatencyTable) -> None:
    visible = {trace.name for trace in plots.figure(table).data if trace.visible is True}
    slowest = sorted(table.layers, key=lambda one: -one.dense_ms)
    assert visible == {str(layer.dense) for layer in slowest[: plots.SHOWN]}
    assert len(slowest) > plots.SHOWN


def test_axes_have_units_and_the_title_says_what_was_measured(table: LatencyTable) -> None:
    layout = plots.figure(table).layout
    texts = [axis.title.text for axis in (layout.xaxis, layout.xaxis2, layout.xaxis3)]
    assert texts == ["output channels", "input channels", "measured, ms"]
    assert layout.yaxis.title.text == "latency of the layer, ms"
    assert layout.title.text == f"stairs on staircase (1 thread), {table.origin.date[:10]}"
    assert layout.yaxis2.matches == "y"


def test_networks_lie_beside_the_line_of_right_predictions(table: LatencyTable) -> None:
    *_, line, networks = plots.figure(table).data
    assert line.x == line.y and line.x[1] > max(*networks.x, *networks.y)
    assert list(zip(networks.y, networks.x, strict=True)) == list(table.correction.networks)


def test_plotly_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Plotly: pip install"):
        plots.check_plotly()
