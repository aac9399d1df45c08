"""Measures on this host: latency tables, which survive interruptions, and pairs of networks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.allocator import settled_memory
from autoprune.core.lock import held
from autoprune.core.precision import float_dtype
from autoprune.core.progress import Progress
from autoprune.core.records import plain
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.cost.latency.table import LatencyTable
from autoprune.data.forms import Inputs
from autoprune.errors import UsageError, counted, first_line
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.registry import make_backend
from autoprune.profiling.backends.torch import paired_latency_ms
from autoprune.profiling.journal import Journal
from autoprune.profiling.profiler import TimeLimits, profile
from autoprune.profiling.subject import Subject
from autoprune.structure.inputs import device_of

# The part of the remaining time of a search after which latency is not refined any further.
MEASURING_SHARE = 0.5

log = logging.getLogger(__name__)


def host_conditions(model: nn.Module) -> Conditions:
    """Return the default conditions: eager PyTorch, on the device and in the dtype of a model."""
    return Conditions(
        device=str(device_of(model)),
        threads=torch.get_num_threads(),
        dtype=str(float_dtype(model)).removeprefix("torch."),
    )


def host_figures(models: Sequence[nn.Module], inputs: Inputs) -> LatencyFigures:
    """Return the latencies of a dense network and a pruned one, measured in turn in eager PyTorch.

    Args:
        models: Both networks, on one device.
        inputs: One sample.
    """
    conditions = host_conditions(models[0])
    threads = conditions.threads if device_of(models[0]).type == "cpu" else None
    measured = tuple(paired_latency_ms(models, inputs))
    name = make_backend(conditions).device_name()
    return LatencyFigures(conditions.backend, name, threads, None, measured)


def host_table(
    subject: Subject, path: Path, progress: Progress, deadline: float = math.inf
) -> LatencyTable:
    """Return the latency table of this host: the one in a file if it is still valid, or a new one.

    Args:
        subject: The network.
        path: The file of the table.
        progress: Told how far measuring is.
        deadline: When the search that waits for the table must stop, as in `measure_table`.

    Raises:
        MeasuringError: The device fails, or the time is too short for any table.
        TableError: The file is damaged.
        RunError: Another process is measuring into the same file.
    """
    backend = make_backend(host_conditions(subject.model))
    if path.exists():
        table = LatencyTable.load(path)
        today = backend.conditions, backend.device_name()
        if (table.conditions, table.origin.device) == today:
            return table
    log.info("no latency table is given: this host is measured, into %s", path)
    return measure_table(subject, backend, path, progress, deadline, drops_others=True)


def measure_table(
    subject: Subject,
    backend: Backend,
    path: Path,
    progress: Progress,
    deadline: float = math.inf,
    drops_others: bool = False,
) -> LatencyTable:
    """Measure the latency table of a network, and write it to a file.

    Measurements are kept in a journal, `path` with ".part" appended, until the table is complete;
    an interrupted profile continues there.

    Args:
        subject: The network.
        backend: What runs it, on this host or elsewhere.
        path: The file of the table.
        progress: Told how far measuring is.
        deadline: When the search that waits for the table must stop, in `time.monotonic` seconds;
            refinement ends when half of the time until then is over.
        drops_others: Whether a journal that is damaged, or of another network or conditions, is
            replaced.

    Raises:
        MeasuringError: The device fails, or the time is too short for any table.
        RunError: Another process is measuring into the same file.
    """
    began = time.monotonic()
    limits = TimeLimits(began + MEASURING_SHARE * (deadline - began), deadline)
    common = {**plain(backend.conditions), **subject.identity}
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}.lock"), f"the latency table {str(path)!r}"):
        journal = _journal(path.with_name(f"{path.name}.part"), common, drops_others)
        with settled_memory():
            table = profile(subject, backend, journal, partial(progress.step, "latency"), limits)
        table.save(path)
        journal.discard()
    if time.monotonic() >= limits.refined_until:
        log.info(
            "the time for measuring latency is over: the table holds %s, and is "
            "coarser than one of autoprune profile",
            counted(table.origin.measurements, "measurement"),
        )
    return table


def _journal(path: Path, common: Mapping[str, Any], drops_others: bool) -> Journal:
    """Return the journal of what was measured so far."""
    try:
        journal = Journal(path, common)
    except UsageError as error:
        if not drops_others:
            raise
        log.info("measured from the start: %s", first_line(error))
        path.unlink()
        return Journal(path, common)
    if len(journal):
        log.info("made before: %s", counted(len(journal), "measurement"))
    return journal
