"""The latency table of a search: which one it uses, and what it tells the search."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from autoprune.core.progress import Progress
from autoprune.cost.budget import Budget
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.latency.preferred_multiple import preferred_multiple
from autoprune.cost.latency.table import LatencyTable, describe_error, describe_noise
from autoprune.cost.model import CostModel
from autoprune.errors import UsageError, spelt
from autoprune.evaluation.reward import BUILT_IN
from autoprune.options.search import AUTO, SearchConfig
from autoprune.profiling.backends.base import Backend
from autoprune.profiling.backends.registry import KIND, make_backend
from autoprune.profiling.host import host_conditions, host_table
from autoprune.profiling.subject import Subject

log = logging.getLogger(__name__)


def wants_latency(config: SearchConfig) -> bool:
    """Return whether a search needs predictions of latency."""
    name = LatencyCost.name
    return (
        name in Budget.parse(config.budget).limits
        or name == config.minimize
        or (config.reward in BUILT_IN and BUILT_IN[config.reward].cost == name)
        or config.latency_table is not None
        or config.round_to == AUTO
    )


def latency_cost(
    subject: Subject,
    config: SearchConfig,
    path: Path,
    progress: Progress,
    deadline: float = math.inf,
) -> LatencyCost | None:
    """Return the cost model of latency for a search, or None if the search needs none.

    Args:
        subject: The network.
        config: The options; they may name a table, otherwise this host is measured.
        path: The file in which the table of this host is kept.
        progress: Told how far measuring is.
        deadline: When the search must stop, in `time.monotonic` seconds.

    Raises:
        MeasuringError: The device fails, or the time is too short to measure this host.
        TableError: The table is damaged, lacks a layer or is of other conditions.
    """
    if not wants_latency(config):
        return None
    if config.latency_table is not None:
        table = LatencyTable.load(Path(config.latency_table))
    else:
        table = host_table(subject, path, progress, deadline)
    for doubt in filter(None, (describe_noise(table.origin), describe_error(table))):
        log.warning("%s", doubt)
    table.check(batch=1, dtype=host_conditions(subject.model).dtype)
    return LatencyCost(subject.structure, table)


def width_multiple(config: SearchConfig, costs: Mapping[str, CostModel]) -> int:
    """Return the number that all widths are multiples of."""
    cost = costs.get(LatencyCost.name)
    if config.round_to != AUTO or not isinstance(cost, LatencyCost):
        return int(config.round_to)
    multiple = preferred_multiple(cost.layers)
    log.info("widths are multiples of %d, as %s favours", multiple, cost.table.about)
    return multiple


def check_latency_table(config: SearchConfig) -> None:
    """Refuse a latency table that cannot be read, or that another backend measured.

    Raises:
        TableError: The table is damaged.
        UsageError: The table is not of the backend that is named, or that cannot be loaded.
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


def verifying_backend(table: LatencyTable, config: SearchConfig) -> Backend | None:
    """Return the backend that measures the winner under the conditions of a table, if any.

    A table may come from anybody: code that it names is imported only if the user names it too.
    """
    if not config.verify_latency:
        return None
    name = config.latency_backend or table.conditions.backend
    if config.latency_backend is None and not KIND.is_installed(name):
        log.info(
            "the winner will not be measured: the latency table's backend %r is not an installed "
            "one; if it is yours, give %s",
            name,
            spelt("latency_backend", name),
        )
        return None
    try:
        backend = make_backend(replace(table.conditions, backend=name))
    except UsageError:
        return None
    return backend if backend.device_name() == table.origin.device else None


def _object_name(backend: str) -> str:
    """Return the class that a backend's name ends with; its file may have moved since."""
    return backend.rpartition(":")[2]
