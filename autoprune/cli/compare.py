"""`autoprune compare`: what several searches found, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.options.commands import CompareOptions
from autoprune.options.option import read_options


def compare(given: Mapping[str, Any]) -> None:
    """Show some runs beside each other: what each was asked, gained and took.

    Runs of different networks are compared by what they share.
    """
    options = read_options(CompareOptions, given)

    from autoprune.cli.display import print_json, print_table, say
    from autoprune.reporting.run_records import read_runs
    from autoprune.reporting.side_by_side import comparison, comparison_table, notes

    runs = read_runs(options.runs)
    if options.json:
        print_json(comparison(runs))
        return
    print_table(comparison_table(runs))
    for note in notes(runs):
        say(note)
