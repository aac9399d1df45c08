"""`autoprune export`: the pruned network of a run as a file of some runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.options.commands import ExportOptions
from autoprune.options.option import read_options

# Options that say what the run was made of, instead of the run.
ORIGIN = ("model", "weights", "data", "normalize", "classes")


def export(given: Mapping[str, Any]) -> None:
    """Write the pruned network of a run as a file of a runtime, and check and time it there.

    The file is kept only if it computes what PyTorch does on real inputs of the run's data. Size
    and latency are shown beside those of the dense network in the same format. Model and data are
    taken from the run's config.toml where they are not given.
    """
    options = read_options(ExportOptions, given)

    from autoprune import api
    from autoprune.cli.display import print_json, show_export, warn
    from autoprune.cli.subjects import origin_of
    from autoprune.data import load_splits
    from autoprune.engine.export import plan_export
    from autoprune.models.loading import load_model
    from autoprune.options.stored import stored_settings
    from autoprune.study.run_directory import RunDirectory

    run = RunDirectory(options.run)
    output = None if options.output is None else Path(options.output)
    # A mistake is told before anything is loaded.
    planned = plan_export(run, options.format, options.int8, output)
    named = {name: given[name] for name in ORIGIN if name in given}
    stored = {name: value for name, value in stored_settings(run).items() if name in ORIGIN}
    origin = origin_of(stored, named, options.run, options.trust)
    splits = load_splits(origin["data"], origin.get("normalize"), origin.get("classes"))
    for note in splits.notes:
        warn(note)
    dense = load_model(origin["model"], origin.get("weights"))
    entry = api.export(
        dense, run.path, data=splits, format=planned.exporter, int8=options.int8, output=output
    )
    if options.json:
        print_json(entry)
    else:
        show_export(entry, str(planned.path))
