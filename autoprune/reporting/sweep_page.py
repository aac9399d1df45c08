"""The page of a sweep: what every budget costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.reporting import panels
from autoprune.reporting.blocks import Page, Section
from autoprune.reporting.page import write_page
from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.wording import brief
from autoprune.version import __version__


def write_sweep_page(runs: Sequence[RunRecord], path: Path) -> None:
    """Write the page of runs under different budgets; each has a page of its own besides.

    Args:
        runs: of one network, the narrowest budget first.
        path: of the file, which is replaced.
    """
    page = Page(
        title=f"autoprune: {len(runs)} budgets",
        lead=[f"From {brief(runs[0].asked)} to {brief(runs[-1].asked)}.", panels.headline(runs[0])],
        sections=[
            Section(title, blocks, title)
            for title, panel in panels.OF_SWEEP
            if (blocks := list(panel(runs)))
        ],
        origin=f"Made by autoprune {__version__} from {path.parent.resolve()}",
    )
    write_page(page, path)
