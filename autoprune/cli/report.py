"""`autoprune report`: what searches found, as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.options.commands import ReportOptions
from autoprune.options.option import read_options


def report(given: Mapping[str, Any]) -> None:
    """Write a page that shows what a search found, or several beside each other.

    Accuracy against cost of all candidates, progress, why each layer was kept or cut, where the
    time went: one HTML file that needs no network.
    """
    options = read_options(ReportOptions, given)

    from autoprune.cli.display import point_to
    from autoprune.reporting.report import report

    path = report(*options.runs, output=options.output)
    point_to(f"{path}: open it in a browser")
