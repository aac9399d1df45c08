"""Draws a latency table: latency against width for every layer, and predicted networks."""

from __future__ import annotations

import html
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.table import LatencyTable
from autoprune.errors import UsageError

# The number of slowest layers that are shown at first; the legend shows the others.
SHOWN = 10
# Seaborn's palette "deep", which colour-blind people can tell apart; one colour per layer shown.
COLOURS = (
    "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3",
    "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd",
)  # fmt: skip


def check_plotly() -> None:
    """Refuse to draw without Plotly.

    Raises:
        UsageError: Plotly is not installed.
    """
    if find_spec("plotly") is None:
        raise UsageError('--plot needs Plotly: pip install "autoprune[plots]".')


def plot(table: LatencyTable, path: Path) -> None:
    """Write a self-contained HTML page that shows a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(figure(table).to_html(include_plotlyjs=True), encoding="utf-8")


def figure(table: LatencyTable) -> Any:
    """Return a Plotly figure: latency against both widths of every layer, and whole networks."""
    from plotly.subplots import make_subplots

    error = table.correction.relative_error
    networks = "whole networks" if error is None else f"whole networks, off by {100 * error:.1f} %"
    page = make_subplots(
        rows=1,
        cols=3,
        column_widths=[0.37, 0.37, 0.26],
        horizontal_spacing=0.07,
        subplot_titles=["fewer outputs", "fewer inputs", networks],
    )
    slowest = sorted(table.layers, key=lambda one: -one.dense_ms)
    for rank, layer in enumerate(slowest):
        for column, curve in _curves(layer, rank):
            page.add_trace(curve, row=1, col=column)
    for trace in _networks(table.correction):
        page.add_trace(trace, row=1, col=3)
    for column, x, y in (
        (1, "output channels", "latency of the layer, ms"),
        (2, "input channels", ""),
        (3, "measured, ms", "predicted from the others, ms"),
    ):
        page.update_xaxes(title=x, rangemode="tozero", row=1, col=column)
        page.update_yaxes(title=y, rangemode="tozero", row=1, col=column)
    page.update_yaxes(matches="y", row=1, col=2)
    hidden = f", the {SHOWN} slowest of {len(slowest)}" if len(slowest) > SHOWN else ""
    page.update_layout(
        title=html.escape(f"{table.about}, {table.origin.date[:10]}"),
        template="plotly_white",
        height=650,
        legend={
            "title": f"Layers{hidden}<br><sup>click: show or hide; double click: "
            "alone<br>dotted: misaligned widths</sup>",
            "font": {"size": 10},
        },
    )
    return page


def _curves(layer: LayerLatency, rank: int) -> Iterator[tuple[int, Any]]:
    """Yield (column, trace) for every width of a layer that can be cut, under one legend entry.

    Solid lines show aligned widths, dotted ones the misaligned widths of the side that the layer's
    alignment depends on.
    """
    from plotly import graph_objects as go

    aligned, *misaligned = layer.surfaces
    by_group = layer.dense.groups > 1
    drawn = [
        (1, aligned.outputs, "solid"),
        (2, aligned.inputs, "solid"),
        *((1, one.outputs, "dot") if by_group else (2, one.inputs, "dot") for one in misaligned),
    ]
    curves = [one for one in drawn if len(one[1].lengths) > 1]
    for place, (column, curve, dash) in enumerate(curves):
        yield (
            column,
            go.Scatter(
                x=curve.lengths,
                y=curve.ms,
                error_y={"array": curve.spread_ms, "thickness": 0.5, "width": 0},
                mode="lines+markers",
                marker={"size": 4},
                line={"width": 1.5, "color": COLOURS[rank % len(COLOURS)], "dash": dash},
                name=html.escape(str(layer.dense)),
                legendgroup=str(rank),
                showlegend=not place,
                visible=True if rank < SHOWN else "legendonly",
                hovertemplate="%{x} channels: %{y:.3g} ms",
            ),
        )


def _networks(correction: Correction) -> Iterator[Any]:
    """Yield the line of exact predictions, and the whole networks."""
    from plotly import graph_objects as go

    if not correction.networks:
        return
    predicted = [one.predicted_ms for one in correction.networks]
    measured = [one.measured_ms for one in correction.networks]
    ends = [0.0, 1.05 * max(*predicted, *measured)]
    line = {"color": "grey", "width": 1, "dash": "dash"}
    yield go.Scatter(
        x=ends, y=ends, mode="lines", line=line, showlegend=False, hoverinfo="skip", name="equal"
    )
    yield go.Scatter(
        x=measured,
        y=predicted,
        mode="markers",
        marker={"color": "black", "size": 6},
        showlegend=False,
        name="network",
        hovertemplate="measured %{x:.3g} ms, predicted %{y:.3g} ms",
    )
