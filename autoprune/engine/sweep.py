"""An earlier run brought onto many budgets: one run directory each, and what they trade."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.notes import forwarded_notes
from autoprune.core.records import plain
from autoprune.engine.begin import at_once_of, check_storage, choices_in, choices_of
from autoprune.engine.clock import Clock
from autoprune.engine.search_task import Prepared, SearchTask, interruptible
from autoprune.errors import BudgetError, UsageError, describe, first_line, shown
from autoprune.options.search import RENEWABLE
from autoprune.options.stored import REMARKS
from autoprune.reporting.run_records import read_runs
from autoprune.reporting.side_by_side import comparison
from autoprune.reporting.sweep_page import write_sweep_page
from autoprune.study.run_directory import RunDirectory
from autoprune.study.sweep_directory import SweepDirectory, SweepRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRuns:
    """A finished sweep.

    Attributes:
        path: its directory.
        runs: the run directories of the budgets that could be met, the narrowest first.
        result: what is in `sweep.json`.
    """

    path: Path
    runs: tuple[Path, ...]
    result: Mapping[str, Any]


def run_sweep(
    task: SearchTask,
    budgets: Mapping[str, str],
    asked: SweepRecord,
    folder: SweepDirectory,
    resume: bool,
) -> SweepRuns:
    """Search under every budget; what is finished already is not searched again.

    The network is traced and its statistics are gathered once. A budget that is out of reach is
    noted, and the others are searched.

    Args:
        task: under any of the budgets.
        budgets: by the name of their run directories.
        asked: what is written down, to go on with.
        folder: where the runs go.
        resume: whether the sweep was begun before.

    Raises:
        BudgetError: no budget can be met.
        UsageError: the sweep was begun with other options.
        Interrupted: by Ctrl-C.
    """
    with forwarded_notes(task.progress), folder.held(), interruptible(lambda: folder.how_to_resume):
        begun: Mapping[str, Any] = {}
        if resume:
            begun = _check_same(folder, asked).settings
            task = task.going_on(begun)
        else:
            folder.check_free()
        with task.placed() as placed:
            tasks = {name: placed.under(one) for name, one in budgets.items()}
            chosen = choices_in(begun)
            prepared = _prepare(tasks, folder, chosen)
            if prepared is not None:
                chosen = choices_of(prepared.groundwork.evaluators)
            own = {"at_once": placed.config.at_once, **chosen}
            asked = SweepRecord(asked.sweep, {**asked.settings, **own})
            refused = _search_all(tasks, asked, folder, prepared)
        content = _content(asked, folder, tasks, refused)
        folder.save(content)
        done = _finished(folder, tasks)
        if not done:
            raise BudgetError(f"none of the budgets can be met: {list(refused.values())[-1]}")
        _write_page(folder, done)
    return SweepRuns(folder.path, tuple(run.path for run in done), content)


def _search_all(
    tasks: Mapping[str, SearchTask],
    asked: SweepRecord,
    folder: SweepDirectory,
    prepared: Prepared | None,
) -> dict[str, str]:
    """Search under every budget; return, by name, why budgets cannot be met."""
    refused: dict[str, str] = {}
    for place, (name, own) in enumerate(tasks.items(), 1):
        folder.save(_content(asked, folder, tasks, refused))
        log.info("budget %d of %d: %s", place, len(tasks), own.config.budget)
        run = folder.run(name)
        if own.is_finished(run):
            log.info("%s is finished", run.path)
            continue
        try:
            own.run(run, _clock(own), run.config_path.exists(), prepared)
        except BudgetError as error:
            refused[name] = first_line(error)
            log.info("it is left out: %s", refused[name])
    return refused


def _check_same(folder: SweepDirectory, asked: SweepRecord) -> SweepRecord:
    """Return what a sweep was begun with; refuse to go on with other options."""
    record = folder.load()
    at_once = {"at_once": at_once_of(record.settings)}
    begun = {**record.settings, **at_once, "sweep": record.sweep}
    given = {**at_once, **asked.settings, "sweep": asked.sweep}
    for key in sorted((begun.keys() | given.keys()) - {*RENEWABLE, *REMARKS}):
        if begun.get(key) != given.get(key):
            raise UsageError(
                f"cannot resume {str(folder.path)!r} with {key}={shown(given.get(key))}: it was "
                f"begun with {shown(begun.get(key))}."
            )
    check_storage(folder.path, begun, given, "begin another sweep there.")
    return record


def _prepare(
    tasks: Mapping[str, SearchTask], folder: SweepDirectory, begun: Mapping[str, Any]
) -> Prepared | None:
    """Return what the runs share; None if all of them are finished.

    It is made for the first budget that can be met, whichever runs are finished: a sweep that is
    resumed goes on as it was begun.
    """
    if len(_finished(folder, tasks)) == len(tasks):
        return None
    for own in tasks.values():
        try:
            return own.prepare(RunDirectory(folder.path), _clock(own), begun)
        except BudgetError as error:
            last = error
    raise BudgetError(f"none of the budgets can be met: {first_line(last)}") from last


def _clock(task: SearchTask) -> Clock:
    return Clock(time.monotonic(), task.config.time, task.config.recover)


def _finished(folder: SweepDirectory, tasks: Mapping[str, SearchTask]) -> list[RunDirectory]:
    runs = ((own, folder.run(name)) for name, own in tasks.items())
    return [run for own, run in runs if own.is_finished(run)]


def _content(
    asked: SweepRecord,
    folder: SweepDirectory,
    tasks: Mapping[str, SearchTask],
    refused: Mapping[str, str],
) -> dict[str, Any]:
    """Return what `sweep.json` says: every budget, with what is known of its run."""
    done = _finished(folder, tasks)
    facts = comparison(read_runs(run.path for run in done))["runs"] if done else []
    by_name = {run.path.name: own for run, own in zip(done, facts, strict=True)}
    return {
        **plain(asked),
        "runs": [
            {
                "error": refused.get(name),
                **by_name.get(name, {}),
                "run": name,
                "budget": own.config.budget,
                "finished": name in by_name,
            }
            for name, own in tasks.items()
        ],
    }


def _write_page(folder: SweepDirectory, runs: list[RunDirectory]) -> None:
    """Write the page: whatever happens, the runs are not lost for it."""
    try:
        write_sweep_page(read_runs(run.path for run in runs), folder.report_path)
    except Exception as error:
        log.warning("the report cannot be written: %s", describe(error))
