"""`autoprune evaluate`: the pruned network of a run beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.options.commands import SUBJECT, EvaluateOptions
from autoprune.options.option import read_options


def evaluate(given: Mapping[str, Any]) -> None:
    """Compare the pruned network of a run with the dense one: accuracy, loss, cost, latency.

    Model and data are taken from the run's config.toml where they are not given, and so is the
    score of a run that was searched with --evaluate. Latency is measured at batch 1, the two
    networks in turn; on another device by a kit.
    """
    options = read_options(EvaluateOptions, given)

    from autoprune.cli.display import point_to, print_json, show_evaluation, show_measured
    from autoprune.cli.subjects import load_subjects
    from autoprune.core.files import check_writable
    from autoprune.engine.winner_kit import read_winner_kit
    from autoprune.errors import UsageError
    from autoprune.study.run_directory import RunDirectory

    if options.kit is not None and options.from_kit is not None:
        raise UsageError("--kit writes a folder, --from-kit reads its results: give one.")
    if options.from_kit is not None:
        if extra := [name for name in (*SUBJECT, "split") if name in given]:
            raise UsageError(f"--from-kit reads results: leave out --{extra[0]}.")
        measured = read_winner_kit(Path(options.from_kit), RunDirectory(options.run))
        (print_json if options.json else show_measured)(measured)
        return
    if options.kit is not None:
        check_writable(Path(options.kit), "--kit", is_folder=True)
    named = {name: given[name] for name in SUBJECT if name in given}
    subjects = load_subjects(options.run, named, options.split, options.trust)
    if options.kit is not None:
        subjects.pack(Path(options.kit))
        point_to(f"{options.kit}: how to measure the winner there is in its README.txt")
        return
    report = subjects.compare()
    (print_json if options.json else show_evaluation)(report)
