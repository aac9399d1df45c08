from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from plotly import graph_objects
from torch import nn

from autoprune.cost.latency.correction import NetworkLatency
from autoprune.cost.latency.table import LatencyTable
from autoprune.reporting.blocks import Figure, Page, Table
from autoprune.reporting.latency_page import SHOWN, page, write_latency_page


@pytest.fixture(scope="module")
def table(stair_table: Any) -> LatencyTable:
    sizes = [3, *range(20, 33), 10]
    convolutions = [nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes)]
    found: LatencyTable = stair_table(nn.Sequential(*convolutions), torch.randn(1, 3, 8, 8))
    return found


def figures(shown: Page) -> list[Figure]:
    """Return the drawings: outputs, inputs, and whole networks."""
    return [block for one in shown.sections for block in one.blocks if isinstance(block, Figure)]


def traces(figure: Figure) -> dict[str, Mapping[str, Any]]:
    """Return the traces that the legend names."""
    return {one["name"]: one for one in figure.views[0].data if one.get("showlegend", True)}


def test_a_page_needs_nothing_but_itself(table: LatencyTable, tmp_path: Path) -> None:
    write_latency_page(table, tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text()
    assert "conv2d 1x1 3 to 20 channels" in text
    assert not re.search(r"<(script[^>]*src|link)", text)


def test_both_widths_of_every_layer_are_drawn(table: LatencyTable) -> None:
    outputs, inputs, _ = map(traces, figures(page(table)))
    for layer in table.layers:
        (surface,) = layer.surfaces
        for drawn, curve in ((outputs, surface.outputs), (inputs, surface.inputs)):
            if len(curve.lengths) > 1:
                trace = drawn[str(layer.dense)]
                assert (trace["x"], trace["y"]) == (list(curve.lengths), list(curve.ms))
                assert trace["error_y"]["array"] == list(curve.spread_ms)
    # The image's channels and the classes cannot be cut.
    assert "conv2d 1x1 3 to 20 channels on 8x8" not in inputs
    assert "conv2d 1x1 32 to 10 channels on 8x8" not in outputs
    assert len(outputs) == len(inputs) == len(table.layers) - 1
    for name in outputs.keys() & inputs.keys():
        assert outputs[name]["line"]["color"] == inputs[name]["line"]["color"]


def test_misaligned_widths_are_dotted(stair_table: Any, aligned_backend: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 9, 1))
    table = stair_table(model, torch.randn(1, 3, 8, 8), aligned_backend)
    outputs, inputs, *_ = figures(page(table))
    dotted = [
        [one["name"].split(" in ")[0].split(" on ")[0] for one in figure.views[0].data
         if one["line"]["dash"] == "dot"]
        for figure in (outputs, inputs)
    ]  # fmt: skip
    assert dotted == [["conv2d 3x3 24 to 24 channels"], ["conv2d 1x1 24 to 9 channels"]]


def test_the_slowest_layers_are_shown(table: LatencyTable) -> None:
    shown = page(table)
    outputs, inputs, _ = map(traces, figures(shown))
    visible = {
        name for drawn in (outputs, inputs) for name, one in drawn.items() if one["visible"] is True
    }
    slowest = sorted(table.layers, key=lambda one: -one.dense_ms)
    assert visible == {str(layer.dense) for layer in slowest[:SHOWN]}
    assert len(slowest) > SHOWN
    (rows,) = [block for block in shown.sections[0].blocks if isinstance(block, Table)]
    assert [row[0] for row in rows.rows] == [str(layer.dense) for layer in slowest]


def test_axes_have_units_and_the_title_says_what_was_measured(table: LatencyTable) -> None:
    shown = page(table)
    layouts = [one.views[0].layout for one in figures(shown)]
    titles = [(one["xaxis"]["title"]["text"], one["yaxis"]["title"]["text"]) for one in layouts]
    assert titles == [
        ("output channels", "latency, ms"),
        ("input channels", "latency, ms"),
        ("measured, ms", "predicted from the others, ms"),
    ]
    assert shown.title == "Latency: stairs on staircase (1 thread)"
    assert table.origin.date[:10] in shown.lead[0]


def test_networks_lie_beside_the_line_of_right_predictions(table: LatencyTable) -> None:
    line, networks = figures(page(table))[2].views[0].data
    assert line["x"] == line["y"] and line["x"][1] > max(*networks["x"], *networks["y"])
    pairs = list(map(NetworkLatency, networks["y"], networks["x"]))
    assert pairs == list(table.correction.networks)


def test_plotly_knows_every_property(table: LatencyTable) -> None:
    for figure in figures(page(table)):
        (view,) = figure.views
        data = json.loads(re.sub('"(text|quiet)"', '"red"', json.dumps(view.data)))
        layout = {**view.layout, "legend": {}}  # older versions know no maxheight
        graph_objects.Figure(data=data, layout=layout)
