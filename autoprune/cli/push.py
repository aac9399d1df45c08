"""`autoprune push`: a run for others, on a model hub or in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.options.commands import PushOptions
from autoprune.options.option import read_options


def push(given: Mapping[str, Any]) -> None:
    """Upload a run with a model card to Hugging Face's hub, or write it into a folder.

    Policy, weights and figures are taken along; config.toml, which names places on this machine,
    is not. `autoprune.load_pruned` takes the downloaded folder.
    """
    options = read_options(PushOptions, given)

    from autoprune.cli.display import point_to
    from autoprune.engine.push import pack_run, push_run
    from autoprune.study.run_directory import RunDirectory

    run = RunDirectory(options.run)
    if options.folder is None:
        place = push_run(run, options.repository, options.private)
    else:
        pack_run(run, options.repository, Path(options.folder))
        place = options.folder
    point_to(place)
