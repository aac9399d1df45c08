"""`autoprune export`: the pruned network of a run as a file of some runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.options.commands import SUBJECT, ExportOptions
from autoprune.options.option import read_options


def export(given: Mapping[str, Any]) -> None:
    """Write the pruned network of a run as a file of a runtime, and check and time it there.

    The file is kept only if it computes what PyTorch does on real inputs of the run's data. Size
    and latency are shown beside those of the dense network in the same format. Model and data are
    taken from the run's config.toml where they are not given.
    """
    options = read_options(ExportOptions, given)

    from autoprune import api
    from autoprune.cli.display import print_json, show_export
    from autoprune.cli.subjects import load_dense
    from autoprune.engine.export import plan_export
    from autoprune.study.run_directory import RunDirectory

    run = RunDirectory(options.run)
    output = None if options.output is None else Path(options.output)
    # A mistake is told before anything is loaded.
    planned = plan_export(run, options.format, options.int8, output)
    named = {name: given[name] for name in SUBJECT if name in given}
    dense, splits, _ = load_dense(run, named, options.trust)
    exporter, int8 = planned.exporter, options.int8
    entry = api.export(dense, run.path, data=splits, format=exporter, int8=int8, output=output)
    if options.json:
        print_json(entry)
    else:
        show_export(entry, str(planned.path))
