"""`autoprune train`: train with a method, cut by what it learnt, fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import UsageError
from autoprune.methods.registry import KIND as METHODS
from autoprune.options.commands import TrainCommand
from autoprune.options.option import options_of, read_options
from autoprune.options.stored import ORIGIN
from autoprune.options.train import OPTIONS, TrainConfig

_KNOWN = options_of(TrainCommand, TrainConfig)
# What is code of the user's, and named again when a training goes on.
_FUNCTIONS = ("loss", "evaluate")


def train(given: Mapping[str, Any]) -> None:
    """Train a network with a method that prepares it for the cut, cut it, and fine-tune it.

    The run directory is that of a search, with the trained network in trained.safetensors as its
    dense network. Without --model and --data the built-in demo is trained.
    """
    run_train(given)


def run_train(given: Mapping[str, Any], command_name: str = "train") -> None:
    """Do that for a command that is a training.

    Args:
        given: plain values of the options of `autoprune train`.
        command_name: named where one is missing.
    """
    own = {name: value for name, value in given.items() if name in OPTIONS}
    rest = {name: value for name, value in given.items() if name not in OPTIONS}
    command = read_options(TrainCommand, rest)
    if not command.resume:
        own, rest = _completed(own, rest)
        command = read_options(TrainCommand, rest)
    origin = {name: rest[name] for name in ORIGIN if name in rest}
    if command.resume:
        own, origin = _begun(command, own, origin)
    if "method" not in own:
        raise UsageError(f"--method is missing: choose {', '.join(METHODS.names)}.")
    config = TrainConfig.from_mapping(own)

    from autoprune import api
    from autoprune.cli.display import show_trained
    from autoprune.cli.progress_bars import listen
    from autoprune.cli.settings import free_output, lasting, model_and_data
    from autoprune.cli.subjects import load_origin
    from autoprune.engine.train_context import check_method
    from autoprune.models.devices import find_device
    from autoprune.study.run_directory import RunDirectory

    origin |= model_and_data(origin, command_name)
    output = Path(command.output) if command.output else free_output(origin["model"])
    check_method(config)
    if not command.resume:
        RunDirectory(output).check_free()
    model, data = load_origin(origin)
    with listen(command.quiet) as progress:
        done = api.train(
            model.to(find_device(origin.get("device"))),
            data=data,
            loss=command.loss,
            evaluate=command.evaluate,
            output=output,
            resume=command.resume,
            progress=progress,
            origin=lasting(origin),
            **own,
        )
    show_trained(done, command.quiet)


def _completed(
    own: Mapping[str, Any], rest: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a new training, under those that are given.

    A config file says others, and of the run whose widths are taken the model, the data and what
    it excluded are used.

    Raises:
        UsageError: a file cannot be read, an option is wrong, or code is not agreed to.
    """
    from autoprune.cli.stored_options import NAME_OR_TRUST, agreed, read_config, recalled

    given, trusts = {**own, **rest}, bool(rest.get("trust"))
    known = {name: one for name, one in _KNOWN.items() if one.is_in_files}
    if (path := rest.get("config")) is not None:
        content = read_config(Path(path), given.get("method"), "method", known)
        given = {**agreed(Path(path), _free(content, given), trusts, NAME_OR_TRUST), **given}
        given |= _method_config(content, given)
    given = {**recalled("widths_from", given, known, trusts), **given}
    merged = {name: value for name, value in given.items() if name in OPTIONS}
    return merged, {name: value for name, value in given.items() if name not in OPTIONS}


def _free(content: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in given}


def _method_config(content: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method's options, those of the command line over those of the file."""
    read = OPTIONS["method_config"].read
    tables = [read(one["method_config"]) for one in (content, given) if "method_config" in one]
    return {"method_config": {key: value for one in tables for key, value in one.items()}}


def _begun(
    command: TrainCommand, own: dict[str, Any], origin: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options and the origin of the training in --output, under those that are given.

    Raises:
        UsageError: there is none, or it names code of the user's that is not named again.
    """
    from autoprune.cli.stored_options import NAME_OR_TRUST, agreed
    from autoprune.options.stored import stored_settings
    from autoprune.study.run_directory import RunDirectory

    if command.output is None:
        raise UsageError("--resume needs --output DIR: the run directory of the training.")
    run = RunDirectory(command.output)
    begun, stored = run.method.load_config(), stored_settings(run)
    options = {**{key: value for key, value in begun.items() if key in OPTIONS}, **own}
    names = {"method": own.get("method"), **{one: getattr(command, one) for one in _FUNCTIONS}}
    for name, value in names.items():
        is_code = name in begun and not METHODS.is_installed(begun[name])
        if is_code and value is None:
            raise UsageError(
                f"the training in {command.output!r} was begun with --{name} {begun[name]}: name "
                "it again."
            )
    if not {"model", "data"} <= {*stored, *origin}:
        raise UsageError(
            f"the training in {command.output!r} was begun from Python: resume it there, with "
            "autoprune.train(…, resume=True)."
        )
    kept = {name: stored[name] for name in ORIGIN if name in stored and name != "weights"}
    if "weights" in begun:
        kept["weights"] = begun["weights"]
    taken = {**kept, "logger": begun.get("logger")}
    agreed(run.path, _free(taken, {**own, **origin}), command.trust, NAME_OR_TRUST)
    return options, {**kept, **origin}
