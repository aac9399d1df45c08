"""Runs beside each other: what each was asked, what it gained, what it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autoprune.cost import COSTS, cost_class
from autoprune.reporting.blocks import Table
from autoprune.reporting.run_records import STAGES, RunRecord
from autoprune.reporting.wording import (
    UNKNOWN,
    brief,
    conditions,
    duration,
    number,
    percent,
    points,
)


def comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what is compared, as plain values: "same_network", "notes" and "runs"."""
    return {
        "same_network": _is_same_network(runs),
        "notes": notes(runs),
        "runs": [_facts(run) for run in runs],
    }


def _is_same_network(runs: Sequence[RunRecord]) -> bool:
    return all(run.is_like(runs[0]) for run in runs)


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """Return what must be known to read the comparison rightly."""
    found = []
    if not _is_same_network(runs):
        found.append(
            "The runs are of different networks. Costs are shares of each one's own dense network, "
            "and so is the score that was lost; all else does not compare."
        )
    scored = {
        (run.result.score.metric, run.result.score.split, run.result.score.samples) for run in runs
    }
    if len(scored) > 1:
        found.append("The runs are scored on different samples, or by different scores.")
    measured = {run.label: shown_conditions(run) for run in runs}
    if len(set(measured.values())) > 1:
        each = "; ".join(f"{brief(label)}: {text}" for label, text in measured.items())
        found.append(f"Latencies do not compare: {each}.")
    return found


def _facts(run: RunRecord) -> dict[str, Any]:
    result, latency = run.result, run.result.costs.latency
    return {
        "run": str(run.path),
        "network": run.network,
        "budget": run.result.budget,
        "strategy": result.searched_by or result.strategy,
        "seed": result.seed,
        "trials": result.search.trials,
        "evaluations": result.search.evaluations,
        "seconds": result.search.seconds,
        "metric": result.score.metric,
        "dense": run.score("dense"),
        "handed_over": run.score(run.handed_over),
        "stage": run.handed_over,
        "lost": run.lost,
        "kl": run.divergence(run.handed_over),
        "shares": {name: run.share(cost_class(name).result_key) for name in COSTS},
        "latency": None
        if latency is None
        else {
            "backend": latency.backend,
            "device": latency.device,
            "threads": latency.threads,
            "measured_ms": latency.measured_ms,
            "predicted_ms": latency.predicted_ms,
        },
    }


def comparison_table(runs: Sequence[RunRecord]) -> Table:
    """Return the same as a table with one row for each run."""
    by_name = {name: _shown_share(name) for name in COSTS}
    networks: dict[str, Callable[[RunRecord], str]] = {
        "network": lambda run: brief(run.network.rpartition("/")[2])
    }
    columns: dict[str, Callable[[RunRecord], str]] = {
        "run": lambda run: brief(run.label),
        "asked": lambda run: brief(run.asked),
        "dense": lambda run: shown_score(run, run.score("dense")),
        "pruned": lambda run: shown_score(run, run.score(run.handed_over)),
        "lost": lambda run: shown_difference(run, run.lost),
        "KL": lambda run: number(run.divergence(run.handed_over)),
        **{cost_class(name).title: show for name, show in by_name.items()},
        "trials": lambda run: str(run.result.search.trials),
        "search": lambda run: duration(run.result.search.seconds),
        "strategy": lambda run: brief(run.result.searched_by or run.result.strategy),
        "stage": lambda run: STAGES[run.handed_over],
        **({} if _is_same_network(runs) else networks),
    }
    measured = {shown_conditions(run) for run in runs}
    where = f"; {measured.pop()}" if len(measured) == 1 else ""
    return Table(
        f"What was asked and what was gained; costs are shares of the dense network{where}",
        list(columns),
        [[show(run) for show in columns.values()] for run in runs],
        texts=2,
    )


def _shown_share(name: str) -> Callable[[RunRecord], str]:
    return lambda run: percent(run.share(cost_class(name).result_key), 1)


def shown_score(run: RunRecord, score: float | None) -> str:
    """Return an accuracy or a score for people."""
    return percent(score) if run.result.score.metric == "top1" else number(score, 4)


def shown_difference(run: RunRecord, lost: float | None) -> str:
    """Return for people what is lost of a score, as a change of it."""
    if lost is None:
        return UNKNOWN
    return points(-lost) if run.result.score.metric == "top1" else number(-lost, 4, "+")


def shown_conditions(run: RunRecord) -> str:
    """Return in words what latency was measured with, or is predicted for."""
    latency = run.result.costs.latency
    if latency is None or (latency.measured_ms is None and latency.predicted_ms is None):
        return "latency was not measured"
    what = "measured with" if latency.measured_ms is not None else "predicted for"
    return f"latency {what} {conditions(latency.backend, latency.device, latency.threads)}"
