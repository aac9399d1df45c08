"""The report of one or several searches: one page that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoprune.core.files import as_path, check_writable
from autoprune.errors import UsageError, spelt
from autoprune.reporting import panels
from autoprune.reporting.blocks import Page, Section
from autoprune.reporting.page import write_page
from autoprune.reporting.run_records import RunRecord, read_runs
from autoprune.reporting.wording import brief
from autoprune.study.run_directory import RunDirectory
from autoprune.version import __version__

# Where a report of several runs goes.
OUTPUT = "report.html"
# Runs of one page, which stays small enough for a phone.
MOST_RUNS = 10


def report(*runs: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write a page that shows what one search found, or several beside each other.

    The page is one HTML file that needs no network.

    Args:
        *runs: run directories of finished searches.
        output: the file; by default `report.html` in the run directory, which is replaced, or for
            several runs in the current folder.

    Returns:
        The file.

    Raises:
        UsageError: no run is named, one is named twice, or there are more than a page can show.
        RunError: a run is missing, unfinished or damaged, or the file is there or cannot be
            written.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise UsageError(f"a report shows 1 to {MOST_RUNS} runs, but got {len(runs)}.")
    places = [as_path(run, "run") for run in runs]
    path = _default_output(places) if output is None else as_path(output, "output")
    is_own = output is None and len(runs) == 1
    if path.exists() and not (is_own or path.is_dir()):
        other = spelt("output")
        raise UsageError(f"{str(path)!r} is there already: remove it or choose another {other}.")
    records = read_runs(places)
    check_writable(path, spelt("output"))
    write_page(page(records), path)
    return path


def _default_output(runs: Sequence[Path]) -> Path:
    return RunDirectory(runs[0]).report_path if len(runs) == 1 else Path(OUTPUT)


def page(runs: Sequence[RunRecord]) -> Page:
    """Return the page that shows some runs."""
    name = brief(runs[0].label) if len(runs) == 1 else f"{len(runs)} searches"
    return Page(
        title=f"autoprune: {name}",
        lead=[
            f"{brief(run.label)}: {panels.headline(run)}" if len(runs) > 1 else panels.headline(run)
            for run in runs
        ],
        sections=sections(runs),
        origin=f"Made by autoprune {__version__} from "
        + ", ".join(str(run.path.resolve()) for run in runs),
    )


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Return the panels that have something to show: the outcome, all runs, then each run."""
    together = [
        Section(title, blocks, title)
        for title, panel in panels.OF_ALL
        if (blocks := list(panel(runs)))
    ]
    if len(runs) == 1:
        first, *others = _sections_of(runs[0], panels.MOST_ROWS)
        return [first, *together, *others]
    for run in runs:
        label = brief(run.label)
        first, *others = _sections_of(run, panels.MOST_ROWS // len(runs))
        own = [replace(first, link=label), *(replace(one, link="") for one in others)]
        together += [replace(one, title=f"{label}: {one.title.lower()}") for one in own]
    return together


def _sections_of(run: RunRecord, most: int) -> list[Section]:
    return [
        Section(title, blocks, title)
        for title, panel in panels.OF_EACH
        if (blocks := list(panel(run, most)))
    ]
