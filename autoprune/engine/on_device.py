"""The winner of a search measured on the device that its latency table is of.

A kit takes the dense network and the pruned one there; what comes back goes into the run's result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.budget import UNBOUNDED, Budget
from autoprune.core.policy import PruningPolicy, Widths
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.table import LatencyTable
from autoprune.data.forms import Inputs
from autoprune.engine.latency import overshoot
from autoprune.errors import TableError, UsageError
from autoprune.options.stored import stored_settings
from autoprune.profiling.backends.onnx import OnnxBackend, check_onnx
from autoprune.profiling.kit.kit import read_winner, write_winner
from autoprune.study.result import LatencyFigures, predictions_of, with_latency
from autoprune.study.run_directory import RunDirectory


def write_winner_kit(
    folder: Path, run: RunDirectory, dense: nn.Module, pruned: nn.Module, inputs: Inputs
) -> None:
    """Write a folder that measures the dense network and the pruned one in turn.

    Args:
        folder: to be written.
        run: whose winner it is.
        dense: the network before.
        pruned: the network after.
        inputs: of one sample or more.

    Raises:
        UsageError: the folder holds something, or the run's latency table is none of ONNX Runtime.
        TableError: the table cannot be read.
    """
    conditions, _ = _measured_by(run)
    check_onnx(conditions)
    policy = run.load_policy()
    networks = list(zip((dense, pruned), _widths(policy), strict=True))
    write_winner(folder, networks, inputs, _about(policy), conditions)


def take_measured(path: Path, run: RunDirectory) -> dict[str, Any]:
    """Put what a winner's kit measured into the run's result, and return it.

    Returns:
        `costs.latency` of the result, with "budget" as the run's bound on latency ("latency=0.6")
        and "overshoot" as measured latency over it; both None without such a bound.

    Raises:
        TableError: the results are damaged, of another run, or of another device than the table.
        RunError: the run is unfinished or damaged, or another process writes it.
    """
    run.check_finished()
    with run.held():
        policy, result = run.load_policy(), run.load_result()
        conditions, device = _measured_by(run)
        widths, about = _widths(policy), _about(policy)
        origin, conditions, timings = read_winner(path, widths, about, conditions)
        if device is not None and origin.device != device:
            raise TableError(
                f"the results in {str(path)!r} are of {origin.device!r}, but the run's latency "
                f"table predicts {device!r}: run the kit there."
            )
        before = predictions_of(run)
        predicted = before["predicted_dense_ms"], before["predicted_ms"]
        figures = LatencyFigures(
            conditions.backend,
            origin.device,
            conditions.threads,
            predicted if device is not None else None,
            tuple(timing.ms for timing in timings),
        )
        run.save_result(with_latency(result, figures))
    return {**figures.report(), **_bound(before["budget"], figures)}


def _measured_by(run: RunDirectory) -> tuple[Conditions, str | None]:
    """Return how the run's latency table was measured, and on what; without one, the device's own.

    Threads are those that the runtime would use there, then, as in a kit for a table.
    """
    if predictions_of(run)["predicted_ms"] is None:
        return Conditions(OnnxBackend.name, threads=None), None
    named = stored_settings(run).get("latency_table")
    path = run.latency_path if named is None else Path(named)
    table = LatencyTable.load(path)
    if table.conditions.backend != OnnxBackend.name:
        raise UsageError(
            f"a kit measures with ONNX Runtime, but the run's latency table {str(path)!r} was "
            f"measured with the backend {table.conditions.backend!r}."
        )
    return table.conditions, table.origin.device


def _widths(policy: PruningPolicy) -> tuple[Widths, Widths]:
    """Return the widths of the dense network and of the pruned one."""
    groups = policy.groups.values()
    return tuple(group.size for group in groups), tuple(len(group.kept) for group in groups)


def _about(policy: PruningPolicy) -> dict[str, Any]:
    return {"policy": policy.fingerprint, "kept": [len(g.kept) for g in policy.groups.values()]}


def _bound(budget: str | None, figures: LatencyFigures) -> dict[str, Any]:
    """Return the run's bound on latency, and measured latency over it."""
    limit = Budget.parse(budget or UNBOUNDED).limits.get("latency")
    if limit is None:
        return {"budget": None, "overshoot": None}
    return {"budget": str(Budget({"latency": limit})), "overshoot": overshoot(figures, limit)}
