"""Reads the results of kits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from autoprune.core.policy import Widths
from autoprune.core.records import Extent, plain, read
from autoprune.core.untrusted import parse_json, read_text
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.table import LatencyTable, Origin
from autoprune.errors import TableError, file_fault
from autoprune.profiling.journal import Journal
from autoprune.profiling.kit.contents import check_header, header
from autoprune.profiling.profiler import build_table
from autoprune.profiling.sampling import EXHAUSTIVE
from autoprune.profiling.stopwatch import Timing
from autoprune.profiling.subject import Subject, spread_widths


def read_kit(path: Path, subject: Subject, conditions: Conditions) -> LatencyTable:
    """Return the latency table that follows from the results of a kit.

    Args:
        path: The file of results.
        subject: The network and inputs that the kit was written for.
        conditions: The conditions of the kit; if they leave the threads to the device, the table
            has those that it measured with.

    Raises:
        TableError: The results are damaged, lack a measurement, or are of another network or other
            conditions.
    """
    structure = subject.structure
    journal, origin, conditions = _read(path, subject.identity, conditions)
    _check_networks(journal, spread_widths(structure), path)
    return build_table(structure, conditions, origin, journal, EXHAUSTIVE)


def read_winner(
    path: Path, widths: Sequence[Widths], identity: Mapping[str, Any], conditions: Conditions
) -> tuple[Origin, Conditions, list[Timing]]:
    """Return where and how the kit of a winner was run, and the timings of its networks.

    Args:
        path: The file of results.
        widths: The widths of the networks.
        identity: What tells the run from all others.
        conditions: The conditions of the kit, as in `read_kit`.

    Raises:
        TableError: The results are damaged, lack a network, or are of another run or other
            conditions.
    """
    journal, origin, conditions = _read(path, identity, conditions)
    _check_networks(journal, widths, path)
    known = journal.networks
    return origin, conditions, [known[one] for one in widths]


def _read(
    path: Path, identity: Mapping[str, Any], conditions: Conditions
) -> tuple[Journal, Origin, Conditions]:
    """Return the measurements of a kit, where they were made, and under which conditions."""
    try:
        lines = [parse_json(line) for line in read_text(path).splitlines()]
        head = lines[0]
        if conditions.threads is None:
            conditions = replace(conditions, threads=read(head["conditions"]["threads"], Extent))
        journal = Journal(None, plain(conditions))
        expected = header(identity, conditions)
        check_header({key: head.get(key) for key in expected}, expected, path)
        for line in lines[1:]:
            journal.take(line)
        measured = {"noisy": journal.noisy, "measurements": len(journal.layers), "seconds": 0}
        where = {key: head.get(key) for key in ("device", "versions", "date")}
        origin = read({**where, **measured}, Origin)
    except TableError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"cannot read the kit's results {str(path)!r}: {file_fault(error)}."
        ) from error
    return journal, origin, conditions


def _check_networks(journal: Journal, widths: Iterable[Widths], path: Path) -> None:
    known = journal.networks
    if lacking := sum(one not in known for one in widths):
        raise TableError(
            f"the results in {str(path)!r} lack {lacking} whole networks: the kit has not measured "
            "all yet; run it on the device again, it goes on where it was."
        )
