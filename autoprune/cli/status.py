"""`autoprune status`: how far a search is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.options.commands import StatusOptions
from autoprune.options.option import read_options


def status(given: Mapping[str, Any]) -> None:
    """Say how far a search is, which may run elsewhere on this file system.

    Shows its state, the best trial so far and what it costs, failures, pace and stage.
    """
    options = read_options(StatusOptions, given)

    from autoprune.cli.display import print_json, say
    from autoprune.reporting.status import in_words, read_status
    from autoprune.study.run_directory import RunDirectory

    found = read_status(RunDirectory(options.run))
    if options.json:
        print_json(asdict(found))
        return
    for line in in_words(found):
        say(line)
