"""One page that shows a latency table: staircases by layer, and predictions beside measurements."""

from __future__ import annotations

from pathlib import Path

from autoprune.cost.latency.table import LatencyTable
from autoprune.errors import UsageError


def plot(table: LatencyTable, path: Path) -> None:
    """Write a self-contained HTML page.

    Raises:
        UsageError: Plotly is not installed.
    """
    try:
        from plotly import graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise UsageError('--plot needs Plotly: pip install "autoprune[plots]".') from error
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.6, 0.4],
        subplot_titles=["latency against output width", "whole networks"],
    )
    for layer in table.layers:
        if len(layer.outputs.lengths) > 1:
            curve = layer.outputs
            figure.add_trace(
                go.Scatter(
                    x=curve.lengths,
                    y=curve.ms,
                    error_y={"array": curve.spread_ms, "thickness": 0.5},
                    mode="lines+markers",
                    name=str(layer.dense),
                ),
                row=1,
                col=1,
            )
    pairs = table.correction.networks
    if pairs:
        foretold, measured = zip(*pairs, strict=True)
        most = max(*foretold, *measured)
        for x, y, mode, name in (
            (measured, foretold, "markers", "foretold without it"),
            ((0, most), (0, most), "lines", "equal"),
        ):
            figure.add_trace(go.Scatter(x=x, y=y, mode=mode, name=name), row=1, col=2)
    figure.update_xaxes(title="channels", row=1, col=1)
    figure.update_yaxes(title="ms", row=1, col=1)
    figure.update_xaxes(title="measured, ms", row=1, col=2)
    figure.update_yaxes(title="predicted, ms", row=1, col=2)
    figure.update_layout(title=f"{table.about}, {table.origin.date}", height=700)
    path.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
