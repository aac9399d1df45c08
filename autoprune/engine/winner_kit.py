"""The kit of a run's winner: measures the run's networks on the device of its latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.policy import PruningPolicy, Widths
from autoprune.cost.budget import UNBOUNDED, Budget
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.table import LatencyTable
from autoprune.data.forms import Inputs
from autoprune.engine.latency_bound import overshoot
from autoprune.errors import TableError, UsageError
from autoprune.options.stored import stored_settings
from autoprune.profiling.backends.onnx import OnnxBackend, check_onnx
from autoprune.profiling.kit.read import read_winner
from autoprune.profiling.kit.write import write_winner
from autoprune.study.result import predictions_of, with_latency
from autoprune.study.run_directory import RunDirectory


def write_winner_kit(
    folder: Path, run: RunDirectory, dense: nn.Module, pruned: nn.Module, inputs: Inputs
) -> None:
    """Write a folder that measures the dense network and the pruned one in turn.

    Args:
        folder: The folder to write.
        run: The run.
        dense: The dense network.
        pruned: The pruned network.
        inputs: One sample or more.

    Raises:
        UsageError: The folder is not empty, or the run's latency table is not of ONNX Runtime.
        TableError: The table cannot be read.
    """
    conditions, _ = _conditions(run)
    check_onnx(conditions)
    policy = run.load_policy()
    networks = list(zip((dense, pruned), _widths(policy), strict=True))
    write_winner(folder, networks, inputs, _identity(policy), conditions)


def read_winner_kit(path: Path, run: RunDirectory) -> dict[str, Any]:
    """Put what the kit of a winner measured into the result of its run.

    Args:
        path: The file of the kit's results.
        run: The run.

    Returns:
        `costs.latency` of the result, with "budget", the run's bound on latency ("latency=0.6"),
        and "overshoot", the measured latency divided by it; both None without such a bound.

    Raises:
        TableError: The results are damaged, of another run, or of another device than the table.
        RunError: The run is unfinished or damaged, or another process is writing it.
    """
    run.check_finished()
    with run.held():
        policy, result = run.load_policy(), run.load_result()
        conditions, device = _conditions(run)
        widths, identity = _widths(policy), _identity(policy)
        origin, conditions, timings = read_winner(path, widths, identity, conditions)
        if device is not None and origin.device != device:
            raise TableError(
                f"the results in {str(path)!r} are of {origin.device!r}, but the run's latency "
                f"table predicts {device!r}: run the kit there."
            )
        predicted, budget = predictions_of(run)
        figures = LatencyFigures(
            conditions.backend,
            origin.device,
            conditions.threads,
            predicted,
            tuple(timing.ms for timing in timings),
        )
        run.save_result(with_latency(result, figures))
    return {**figures.report(), **_bound(budget, figures)}


def _conditions(run: RunDirectory) -> tuple[Conditions, str | None]:
    """Return the conditions and the device of the run's latency table.

    Without a table there is no device, and the threads are left to the runtime, as in a kit for a
    table.
    """
    if predictions_of(run)[0] is None:
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


def _identity(policy: PruningPolicy) -> dict[str, Any]:
    """Return what tells the winner from all other networks."""
    return {"policy": policy.fingerprint, "kept": [len(g.kept) for g in policy.groups.values()]}


def _bound(budget: str | None, figures: LatencyFigures) -> dict[str, Any]:
    """Return the run's bound on latency, and the measured latency divided by it."""
    limit = Budget.parse(budget or UNBOUNDED).limits.get(LatencyCost.name)
    if limit is None:
        return {"budget": None, "overshoot": None}
    bound = Budget({LatencyCost.name: limit})
    return {"budget": str(bound), "overshoot": overshoot(figures, limit)}
