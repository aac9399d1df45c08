"""Draws a latency table: latency against width for every layer, and predicted networks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoprune.cost.latency.correction import Correction
from autoprune.cost.latency.curves import Curve, LayerLatency
from autoprune.cost.latency.table import LatencyTable, describe_error, describe_noise
from autoprune.reporting.blocks import Bar, Block, Cell, Figure, Page, Section, Table, View
from autoprune.reporting.drawings import Trace
from autoprune.reporting.page import write_page
from autoprune.reporting.wording import percent
from autoprune.version import __version__

# The number of slowest layers that are shown at first; the legend shows the others.
SHOWN = 10
# Pixels; a longer legend scrolls.
LEGEND_HEIGHT = 180
# Seaborn's palette "deep", which colour-blind people can tell apart; one colour per layer shown.
COLOURS = (
    "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3",
    "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd",
)  # fmt: skip


def write_latency_page(table: LatencyTable, path: Path) -> None:
    """Write a page that shows a table, and needs nothing but itself."""
    write_page(page(table), path)


def page(table: LatencyTable) -> Page:
    """Return the page: latency against both widths of every layer, and whole networks."""
    slowest = sorted(table.layers, key=lambda one: -one.dense_ms)
    some = f"the {SHOWN} slowest of {len(slowest)} layers" if len(slowest) > SHOWN else "all layers"
    curves: list[Block] = [
        Figure(
            f"Latency against the number of {side} channels, {some}; the legend shows and hides "
            "layers. Dotted lines are misaligned widths, vertical ones the spread of measurements.",
            f"Line plot of latency against {side} channels; the table below has the dense layers.",
            [
                View(
                    side,
                    [
                        one
                        for rank, layer in enumerate(slowest)
                        for one in _curves(layer, rank, side)
                    ],
                    {
                        "xaxis": {"title": {"text": f"{side} channels"}, "rangemode": "tozero"},
                        "yaxis": {"title": {"text": "latency, ms"}, "rangemode": "tozero"},
                        "legend": {
                            "y": -0.2,
                            "yanchor": "top",
                            "font": {"size": 10},
                            "maxheight": LEGEND_HEIGHT,
                        },
                    },
                )
            ],
            height=400 + LEGEND_HEIGHT,
        )
        for side in ("output", "input")
    ]
    networks = [_networks(table.correction)] if table.correction.networks else []
    doubts = [
        f"{one[0].upper()}{one[1:].rstrip('.')}."
        for one in (describe_noise(table.origin), describe_error(table))
        if one
    ]
    error = table.correction.relative_error
    within = percent(error, 1)
    known = [] if error is None else [f"Whole networks are predicted to within {within}."]
    return Page(
        title=f"Latency: {table.about}",
        lead=[f"{len(slowest)} layers, measured on {table.origin.date[:10]}.", *known, *doubts],
        sections=[
            Section("Layers", [*curves, _layers(slowest)], "Layers"),
            *(Section("Whole networks", [one], "Whole networks") for one in networks),
        ],
        origin=f"Made by autoprune {__version__}",
    )


def _curves(layer: LayerLatency, rank: int, side: str) -> Iterator[Trace]:
    """Yield the curves of a layer along one of its widths, under one legend entry.

    Solid lines show aligned widths, dotted ones the misaligned widths of the side that the layer's
    alignment depends on.
    """
    aligned, *misaligned = layer.surfaces
    aligning = "output" if layer.dense.loses_groups else "input"
    drawn = [aligned, *(misaligned if side == aligning else [])]
    curves: list[Curve] = [one.outputs if side == "output" else one.inputs for one in drawn]
    for place, curve in enumerate(curves):
        if len(curve.lengths) > 1:
            yield {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(curve.lengths),
                "y": list(curve.ms),
                "error_y": {"array": list(curve.spread_ms), "thickness": 0.5, "width": 0},
                "marker": {"size": 4},
                "line": {
                    "width": 1.5,
                    "color": COLOURS[rank % len(COLOURS)],
                    "dash": "dot" if place else "solid",
                },
                "name": html.escape(str(layer.dense)),
                "legendgroup": str(rank),
                "showlegend": not place,
                "visible": True if rank < SHOWN else "legendonly",
                "hovertemplate": "%{x} channels: %{y:.3g} ms",
            }


def _layers(slowest: Sequence[LayerLatency]) -> Table:
    longest = slowest[0].dense_ms if slowest else 1.0
    rows: list[list[Cell]] = [
        [str(one.dense), Bar(f"{one.dense_ms:.3g} ms", one.dense_ms / longest)] for one in slowest
    ]
    return Table("Layers of the dense network, the slowest first", ["layer", "latency"], rows)


def _networks(correction: Correction) -> Figure:
    """Return the whole networks beside the line of exact predictions."""
    predicted = [one.predicted_ms for one in correction.networks]
    measured = [one.measured_ms for one in correction.networks]
    ends = [0.0, 1.05 * max(*predicted, *measured)]
    line: Trace = {
        "type": "scatter",
        "mode": "lines",
        "name": "exact predictions",
        "x": ends,
        "y": ends,
        "line": {"color": "quiet", "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }
    points: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "whole networks",
        "x": measured,
        "y": predicted,
        "marker": {"color": "text", "size": 7},
        "hovertemplate": "measured %{x:.3g} ms, predicted %{y:.3g} ms<extra></extra>",
    }
    axes = {
        "xaxis": {"title": {"text": "measured, ms"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "predicted from the others, ms"}, "rangemode": "tozero"},
    }
    return Figure(
        "Whole networks, each predicted from the others: on the line, the prediction is exact.",
        f"Scatter plot of predicted against measured latency of {len(measured)} networks.",
        [View("networks", [line, points], axes)],
    )
