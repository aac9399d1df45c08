"""The drawings of a report, as plain values that Plotly takes."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from autoprune.cost import COSTS, cost_class
from autoprune.reporting.blocks import Figure, View
from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.scores import ScoreKind, best_so_far, frontier, kinds_of
from autoprune.reporting.wording import brief, percent
from autoprune.study.trial import Trial

Trace: TypeAlias = dict[str, Any]
Row = TypeVar("Row")

# Colours that colour-blind people can tell apart, on white and on black.
COLOURS = ("#2f86d1", "#e0702e", "#1ea37a", "#c868a5", "#8a7fd6", "#b8860b")
# Candidates that are drawn, of all runs together: a page stays small.
MOST_POINTS = 800


def colour(place: int) -> str:
    """Return the colour of a run, by its place among those shown."""
    return COLOURS[place % len(COLOURS)]


def label(name: str) -> str:
    """Return a name as Plotly takes it: it would read markup in it."""
    return html.escape(brief(name, 40))


def handed_over(runs: Sequence[RunRecord]) -> Figure | None:
    """Return the score of what several runs of one network hand over against its costs."""
    scored = [run for run in runs if run.score(run.handed_over) is not None]
    if len(scored) < 2 or not all(run.is_like(scored[0]) for run in scored):
        return None
    is_accuracy = scored[0].result.score.metric == "top1"
    unit = 100 if is_accuracy else 1
    views = []
    for cost in COSTS:
        key, title = cost_class(cost).result_key, cost_class(cost).title
        shares = {run.label: share for run in scored if (share := run.share(key)) is not None}
        if len(shares) < len(scored):
            continue
        ordered = sorted(scored, key=lambda run: shares[run.label])
        points: Trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "handed over",
            "x": [_figure(100 * shares[run.label]) for run in ordered],
            "y": [_figure(unit * (run.score(run.handed_over) or 0.0)) for run in ordered],
            "text": [label(run.label) for run in ordered],
            "marker": {"size": 9, "color": colour(0)},
            "line": {"width": 1.5, "color": colour(0)},
            "hovertemplate": "%{text}<br>%{x:.1f} % of dense<br>%{y:.4g}<extra></extra>",
        }
        dense: Trace = {
            "type": "scatter",
            "mode": "markers",
            "name": "dense",
            "x": [100.0],
            "y": [_figure(unit * (scored[0].score("dense") or 0.0))],
            "marker": {"size": 12, "symbol": "diamond", "color": colour(1)},
            "hovertemplate": "dense<br>%{y:.4g}<extra></extra>",
        }
        axes = {
            "xaxis": {"title": {"text": f"{title}, % of dense"}},
            "yaxis": {"title": {"text": "top-1, %" if is_accuracy else "score"}},
        }
        views.append(View(title, [points, dense], axes))
    if not views:
        return None
    return Figure(
        "What the runs hand over, on the samples that it was scored on at the end.",
        f"Line plot of the score of {len(scored)} networks against {views[0].label}.",
        views,
        height=380,
    )


def candidates(runs: Sequence[RunRecord]) -> Figure | None:
    """Return the score of every candidate against its costs, with the frontier."""
    views = [
        View(
            f"{kind.title.partition(',')[0]} against {cost_class(cost).title}",
            [
                one
                for place, run in enumerate(runs)
                for one in _candidates(run, kind, cost, place, len(runs))
            ],
            {
                "xaxis": {"title": {"text": f"{cost_class(cost).title}, % of dense"}},
                "yaxis": _score_axis(kind),
            },
        )
        for kind in kinds_of(runs)
        for cost in COSTS
        if all(any(_share(trial, cost) is not None for trial in run.trials) for run in runs)
    ]
    if not views:
        return None
    return Figure(
        "All candidates on the search samples, before finalists are repaired with care. The line "
        "is the frontier: no candidate that costs as little scores better. The star is the winner.",
        f"Scatter plot of {views[0].label} for {sum(len(run.trials) for run in runs)} candidates.",
        views,
    )


def _candidates(
    run: RunRecord, kind: ScoreKind, cost: str, place: int, runs: int
) -> Iterator[Trace]:
    rows = [
        (share, score, number, trial)
        for number, trial in enumerate(run.trials, 1)
        if (score := kind.of_trial(trial)) is not None
        and (share := _share(trial, cost)) is not None
    ]
    # In the legend the entries of a run stand below each other, if there are several.
    group: Mapping[str, Any] = {"legendgroup": str(place)} if runs > 1 else {}
    most = MOST_POINTS // runs
    points = [(share, score) for share, score, _, _ in rows]
    front = thinned(frontier(points, kind.is_loss), most)
    for is_probe, symbol in ((False, "circle"), (True, "circle-open")):
        of_kind = [row for row in rows if (row[3].candidate.kind == "probe") is is_probe]
        drawn = thinned(of_kind, most)
        if drawn:
            yield {
                **group,
                "type": "scatter",
                "mode": "markers",
                "name": _named(run, runs, "probes of the strategy" if is_probe else "candidates"),
                "x": [_figure(100 * row[0]) for row in drawn],
                "y": [_drawn(kind, row[1]) for row in drawn],
                "text": [f"trial {row[2]}" for row in drawn],
                "marker": {"size": 7, "opacity": 0.7, "symbol": symbol, "color": colour(place)},
                "hovertemplate": "%{text}<br>%{x:.1f} % of dense<br>%{y:.4g}<extra></extra>",
            }
    yield {
        **group,
        "type": "scatter",
        "mode": "lines",
        "name": _named(run, runs, "frontier"),
        "x": [_figure(100 * share) for share, _ in front],
        "y": [_drawn(kind, score) for _, score in front],
        "line": {"shape": "hv", "width": 1.5, "color": colour(place)},
        "hoverinfo": "skip",
    }
    winner = tuple(kept for kept, _ in run.result.widths.values())
    for share, score, number, _ in [row for row in rows if row[3].candidate.widths == winner][:1]:
        yield {
            **group,
            "type": "scatter",
            "mode": "markers",
            "name": _named(run, runs, "winner"),
            "x": [_figure(100 * share)],
            "y": [_drawn(kind, score)],
            "text": [f"winner, trial {number}"],
            "marker": {
                "size": 15,
                "symbol": "star",
                "color": colour(place),
                "line": {"width": 1.5, "color": "text"},
            },
            "hovertemplate": "%{text}<br>%{x:.1f} % of dense<br>%{y:.4g}<extra></extra>",
        }


def _named(run: RunRecord, runs: int, what: str) -> str:
    return what if runs == 1 else f"{label(run.label)}: {what}"


def _share(trial: Trial, cost: str) -> float | None:
    """Return a cost of a trial as a part of the dense network's."""
    found = trial.measurement
    if found is None or cost not in found.costs or not found.dense_costs.get(cost):
        return None
    return found.costs[cost] / found.dense_costs[cost]


def _score_axis(kind: ScoreKind) -> dict[str, Any]:
    # Divergences of good and bad candidates differ by orders of magnitude.
    unit = {"type": "log"} if kind.is_loss else {}
    title = f"{kind.title}, %" if kind.shown is percent else kind.title
    return {"title": {"text": title}, **unit, "exponentformat": "none"}


def _drawn(kind: ScoreKind, score: float) -> float:
    return _figure(100 * score if kind.shown is percent else score)


def _figure(value: float) -> float:
    """Return a number with the digits that a drawing can show: the page stays small."""
    return float(f"{value:.5g}")


def thinned(rows: Sequence[Row], most: int) -> Sequence[Row]:
    """Return evenly spaced ones of the rows, no more than can be drawn."""
    if len(rows) <= most:
        return rows
    return [rows[place * len(rows) // most] for place in range(most)]


def progress(runs: Sequence[RunRecord]) -> Figure | None:
    """Return the best score so far against evaluations, runs overlaid."""
    views = []
    for kind in kinds_of(runs):
        traces: list[Trace] = []
        for place, run in enumerate(runs):
            found = thinned(best_so_far(run.trials, kind), MOST_POINTS // len(runs))
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label(run.label),
                    "x": [count for count, _ in found],
                    "y": [_drawn(kind, score) for _, score in found],
                    "line": {"shape": "hv", "color": colour(place)},
                    "marker": {"size": 5},
                    "hovertemplate": "after %{x} evaluations: %{y:.4g}",
                    "showlegend": len(runs) > 1,
                }
            )
        axes = {"xaxis": {"title": {"text": "evaluations"}}, "yaxis": _score_axis(kind)}
        views.append(View(kind.title.partition(",")[0], traces, axes))
    if not views:
        return None
    return Figure(
        "The best score so far on the search samples, among candidates within the budget.",
        f"Line plot of the best {views[0].label} against the number of evaluations.",
        views,
        height=340,
    )


def keep_ratios(runs: Sequence[RunRecord], most: int) -> Figure:
    """Return what every group keeps, in network order, beside its share of the MACs.

    Args:
        runs: of networks with the same groups.
        most: groups that are drawn.
    """
    shown = list(runs[0].result.widths)[:most]
    names = [f"{place}. {label(name)}" for place, name in enumerate(shown, 1)]
    data: list[Trace] = [
        {
            "type": "bar",
            "name": f"{label(run.label)}: kept" if len(runs) > 1 else "kept",
            "x": names,
            "y": [_figure(100 * kept / size) for kept, size in _widths(run, shown)],
            "text": [f"{kept} of {size}" for kept, size in _widths(run, shown)],
            "textposition": "none",
            "marker": {"color": colour(place)},
            "hovertemplate": "%{x}: %{text} units (%{y:.0f} %)<extra></extra>",
        }
        for place, run in enumerate(runs)
    ]
    if (groups := runs[0].groups) is not None:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "share of the dense MACs",
                "x": names,
                "y": [_figure(100 * one.share.get("flops", 0.0)) for one in groups.groups][
                    : len(names)
                ],
                "marker": {"symbol": "line-ew", "size": 12, "line": {"width": 3, "color": "text"}},
                "hovertemplate": "%{x}: %{y:.1f} % of the dense MACs<extra></extra>",
            }
        )
    return Figure(
        "What every group of channels keeps, in the order of the network. A share of the MACs is "
        "what would go if that group alone went: a layer's MACs count for the group that it "
        "reads and for the one that it makes.",
        f"Bar chart of the keep ratios of {len(shown)} groups; the table below has the figures.",
        [
            View(
                "keep ratio",
                data,
                {
                    "barmode": "group",
                    "xaxis": {"tickangle": -40, "tickfont": {"size": 10}},
                    "yaxis": {"title": {"text": "%"}, "range": [0, 102]},
                },
            )
        ],
        height=440,
    )


def _widths(run: RunRecord, names: Sequence[str]) -> list[tuple[int, int]]:
    return [run.result.widths[name] for name in names]
