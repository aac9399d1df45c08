"""`autoprune finetune`: train the network of a finished run further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.options.commands import SUBJECT, FinetuneCommand
from autoprune.options.finetune import OPTIONS, FinetuneConfig
from autoprune.options.option import read_options


def finetune(given: Mapping[str, Any]) -> None:
    """Train the pruned network of a run further, with labels and the dense network's answers.

    Model and data are taken from the run's config.toml where they are not given. The best network
    by the validation images goes into RUN/finetuned.safetensors, and is what evaluate, export and
    load_pruned take from then on.
    """
    training = {name: value for name, value in given.items() if name in OPTIONS}
    config = FinetuneConfig.from_mapping(training)
    command = read_options(
        FinetuneCommand, {name: value for name, value in given.items() if name not in OPTIONS}
    )

    from autoprune import api
    from autoprune.cli.display import show_training
    from autoprune.cli.progress_bars import listen
    from autoprune.cli.stored_options import NAME_OR_TRUST, agreed
    from autoprune.cli.subjects import load_dense
    from autoprune.engine.finetune import check_training
    from autoprune.study.run_directory import RunDirectory
    from autoprune.training.objective import find_loss
    from autoprune.training.processes import find_processes

    run = RunDirectory(command.run)
    run.check_finished()
    if command.resume:
        begun = run.training(config.from_scratch).load_config()
        stored = {key: begun[key] for key in begun.keys() & OPTIONS.keys() - training.keys()}
        training |= agreed(run.path, stored, command.trust, NAME_OR_TRUST)
    config = FinetuneConfig.from_mapping(training)
    check_training(run, config, command.resume, command.overwrite)
    find_loss(command.loss)
    find_processes()  # each has a device of its own, which is known before the network is loaded
    named = {name: given[name] for name in (*SUBJECT, "distance") if name in given}
    dense, splits, functions = load_dense(run, named, command.trust)
    with listen(command.quiet) as progress:
        done = api.finetune(
            dense,
            run.path,
            data=splits,
            loss=command.loss,
            evaluate=functions.get("evaluate"),
            distance=functions.get("distance"),
            resume=command.resume,
            overwrite=command.overwrite,
            progress=progress,
            **training,
        )
    show_training(done, config.from_scratch, command.quiet)
