"""Latency in a search: the table that predicts it, and the winner measured for real."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.allocator import settled_memory
from autoprune.core.budget import Budget, Limit
from autoprune.core.lock import held
from autoprune.core.precision import float_dtype
from autoprune.core.progress import Progress
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.preferred_multiple import favoured_step
from autoprune.cost.latency.table import LatencyTable, describe_error, describe_noise
from autoprune.errors import UsageError, first_line
from autoprune.options.search import AUTO, SearchConfig
from autoprune.profiling.backends.base import KIND, Backend, make_backend
from autoprune.profiling.backends.torch import paired_latency_ms
from autoprune.profiling.journal import Journal, subject
from autoprune.profiling.profiler import profile
from autoprune.search_spaces.projection import Projection
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs, device_of, sample
from autoprune.structure.surgery import deep_copy
from autoprune.study.result import LatencyFigures

# The winner may miss its bound by that share: two measurements of one network differ by as much.
TOLERANCE = 0.01
# Part of the time that is left to a search after which latency is refined no more.
MEASURING_SHARE = 0.5
# A tightened bound aims that much below what the miss asks for.
MARGIN = 0.99


def measure_table(
    model: nn.Module,
    structure: Structure,
    inputs: Inputs,
    conditions: Conditions,
    path: Path,
    progress: Progress,
    deadline: float = math.inf,
    drop_others: bool = False,
) -> LatencyTable:
    """Measure the latency table of a network on this host and write it.

    Measurements are kept in `path` with ".part" behind it until the table is whole: an interrupted
    one goes on there.

    Args:
        model: the dense network.
        structure: of the model.
        inputs: example inputs.
        conditions: to measure under.
        path: of the table.
        progress: told how far it is.
        deadline: when a search must stop that waits for the table, in `time.monotonic` seconds;
            within half of what is left until then it is as fine as it can be.
        drop_others: whether measurements there that are damaged, or of another network or other
            conditions, make way.

    Raises:
        UsageError: the backend or its device cannot be used.
        MeasuringError: the device fails, or the time is over too early for any table.
        RunError: another process is measuring into the same file.
    """
    backend = make_backend(conditions)
    began = time.monotonic()
    refined_until = began + MEASURING_SHARE * (deadline - began)
    about = {**conditions.to_json(), **subject(structure, inputs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.lock"), f"the latency table {str(path)!r}"):
        journal = _journal(path.with_name(f"{path.name}.part"), about, progress, drop_others)
        with settled_memory():
            table = profile(
                model, structure, inputs, backend, journal,
                lambda done, total: progress.step("latency", done, total), refined_until, deadline,
            )  # fmt: skip
        table.save(path)
        journal.discard()
    if time.monotonic() >= refined_until:
        progress.note(
            f"the time for measuring latency is over: the table holds {table.origin.measurements} "
            "measurements, and is less fine than one of autoprune profile"
        )
    return table


def _journal(
    path: Path, about: Mapping[str, Any], progress: Progress, drop_others: bool
) -> Journal:
    """Return the record of what was measured so far."""
    try:
        journal = Journal(path, about)
    except UsageError as error:
        if not drop_others:
            raise
        progress.note(f"measured from the start: {first_line(error)}")
        path.unlink()
        return Journal(path, about)
    if len(journal):
        progress.note(f"{len(journal)} measurements were made before")
    return journal


def host_conditions(model: nn.Module) -> Conditions:
    """Return how a search measures where nobody says: eager PyTorch, as the network lies here."""
    return Conditions(
        device=str(device_of(model)),
        threads=torch.get_num_threads(),
        dtype=str(float_dtype(model)).removeprefix("torch."),
    )


def measured_here(models: Sequence[nn.Module], inputs: Inputs) -> LatencyFigures:
    """Return latencies of a dense network and a cut one in eager PyTorch, where they are.

    Args:
        models: both, on one device.
        inputs: one sample.
    """
    conditions = host_conditions(models[0])
    threads = conditions.threads if device_of(models[0]).type == "cpu" else None
    measured = tuple(paired_latency_ms(models, inputs))
    name = make_backend(conditions).device_name()
    return LatencyFigures(conditions.backend, name, threads, None, measured)


def wants_latency(config: SearchConfig) -> bool:
    """Whether a search asks for latencies."""
    bounded = "latency" in Budget.parse(config.budget).limits
    rewarded = config.reward == "accuracy_latency"
    bounded = bounded or config.minimize == "latency"
    return bounded or rewarded or config.latency_table is not None or config.round_to == AUTO


def step_of_widths(config: SearchConfig, cost: LatencyCost | None, progress: Progress) -> int:
    """Return what widths are multiples of."""
    if config.round_to != AUTO or cost is None:
        return int(config.round_to)
    step = favoured_step(cost.layers)
    progress.note(f"widths are multiples of {step}, as {cost.table.about} favours")
    return step


def latency_cost(
    model: nn.Module,
    structure: Structure,
    inputs: Inputs,
    config: SearchConfig,
    path: Path,
    progress: Progress,
    deadline: float = math.inf,
) -> LatencyCost | None:
    """Return the latency that a search goes by, None if it asks for none.

    Args:
        model: the dense network.
        structure: of the model.
        inputs: example inputs.
        config: names a table, or None: then this host's is measured.
        path: where that one is kept, and read if it is there.
        progress: told what is done.
        deadline: when the search must stop, in `time.monotonic` seconds.

    Raises:
        MeasuringError: the time does not suffice to measure this host.
        TableError: the table is damaged, lacks a layer or is of other conditions.
    """
    if not wants_latency(config):
        return None
    if config.latency_table is not None:
        table = LatencyTable.load(Path(config.latency_table))
    elif (kept := _kept_table(model, path)) is not None:
        table = kept
    else:
        progress.note(f"no latency table is given: this host is measured, into {path}")
        today = host_conditions(model)
        table = measure_table(model, structure, inputs, today, path, progress, deadline, True)
    for doubt in filter(None, (describe_noise(table.origin), describe_error(table))):
        progress.note(doubt)
    table.check(batch=1, dtype=host_conditions(model).dtype)
    return LatencyCost(structure, table)


def _kept_table(model: nn.Module, path: Path) -> LatencyTable | None:
    """Return this host's table if it was measured before, as it would be measured today."""
    if not path.exists():
        return None
    table, today = LatencyTable.load(path), host_conditions(model)
    if table.conditions != today or table.origin.device != make_backend(today).device_name():
        return None
    return table


class Verifier:
    """Measures networks beside the dense one, as the table's layers were measured."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, table: LatencyTable, backend: Backend | None
    ) -> None:
        """Take the dense network, one sample, the table that predicts, and who measures, if any."""
        self._model, self._inputs, self._table, self._backend = (
            model,
            sample(inputs, 1),
            table,
            backend,
        )

    def figures(
        self, network: nn.Module | None, dense_ms: float, pruned_ms: float
    ) -> LatencyFigures:
        """Return predicted and, where somebody measures, measured latencies.

        Args:
            network: the cut network; None leaves it unmeasured.
            dense_ms: predicted for the dense network.
            pruned_ms: predicted for the cut one.
        """
        table = self._table
        measured = None
        if self._backend is not None and network is not None:
            with settled_memory(), self._backend.session():
                # Copies: a backend may be the user's, and convert a network in place.
                copies = [deep_copy(one) for one in (self._model, network)]
                runs = [self._backend.network(one, self._inputs) for one in copies]
                measured = tuple(timing.ms for timing in self._backend.measure(runs))
        conditions = table.conditions
        predicted = dense_ms, pruned_ms
        return LatencyFigures(
            conditions.backend, table.origin.device, conditions.threads, predicted, measured
        )


def check_backend(config: SearchConfig) -> None:
    """Refuse a latency table that cannot be read, and one that another backend measured.

    Raises:
        TableError: the table is damaged.
        UsageError: the table is not of the backend that is named, or that cannot be loaded.
    """
    if config.latency_table is None:
        return
    table = LatencyTable.load(Path(config.latency_table))
    if (name := config.latency_backend) is None:
        return
    if _object_name(name) != _object_name(table.conditions.backend):
        raise UsageError(
            f"the latency table was measured with the backend {table.conditions.backend!r}, but "
            f"latency-backend is {name!r}."
        )
    make_backend(replace(table.conditions, backend=name))


def backend_here(table: LatencyTable, config: SearchConfig, progress: Progress) -> Backend | None:
    """Return what measures the winner as the table was measured, None if nothing does here.

    A table may come from anybody: the code that it names is imported only if the user names it
    too.
    """
    if not config.verify_latency:
        return None
    name = config.latency_backend or table.conditions.backend
    if config.latency_backend is None and not KIND.is_installed(name):
        progress.note(
            f"the winner will not be measured: the latency table's backend {name!r} is not an "
            f"installed one; if it is yours, give --latency-backend {name}"
        )
        return None
    try:
        backend = make_backend(replace(table.conditions, backend=name))
    except UsageError:
        return None
    return backend if backend.device_name() == table.origin.device else None


def _object_name(backend: str) -> str:
    """Return the class that a backend's name ends with: its file may lie elsewhere by now."""
    return backend.rpartition(":")[2]


def overshoot(figures: LatencyFigures, limit: Limit) -> float:
    """Return measured latency over its bound; a share is one of the measured dense network.

    It is 0 where nothing was measured.
    """
    if figures.measured_ms is None:
        return 0.0
    dense, pruned = figures.measured_ms
    return pruned / limit.resolve(dense)


def tightened(projection: Projection, factor: float) -> Projection:
    """Return the projection with the bound on latency lowered for a miss by a factor.

    Raises:
        BudgetError: no network is that quick.
    """
    return Projection(
        projection.space,
        [
            replace(bound, limit=bound.limit * MARGIN / factor)
            if bound.cost.name == LatencyCost.name
            else bound
            for bound in projection.constraints
        ],
    )


def is_miss(factor: float) -> bool:
    """Whether a measured latency exceeds its bound by more than measurements differ."""
    return not math.isnan(factor) and factor > 1 + TOLERANCE
