"""The options of every command; each command takes its own as one frozen value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any

from autoprune.exporters.registry import KIND as FORMATS
from autoprune.options import kinds
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.option import Option, Panel, choices, declared_in, option, options_of
from autoprune.options.origin import InputShape, Network, Origin, Photos, Restrictions
from autoprune.options.search import MAY_BE_GIVEN_AGAIN, SearchConfig
from autoprune.options.sparsify import SparsifyConfig
from autoprune.options.train import TrainConfig
from autoprune.profiling.backends.registry import KIND as BACKENDS

_run = partial(option, panel=Panel.RUN)
_measuring = partial(option, panel=Panel.MEASURING)
_compared = partial(option, panel=Panel.COMPARED)
_training = partial(option, panel=Panel.TRAINING)
_written = partial(option, panel=Panel.WRITTEN)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Consent to code that files name."""

    trust: bool = _run(
        False,
        kinds.SWITCH,
        "Run the code (model, data, reward, …) that the run directory or config file names, also "
        "if it was not made here; it is asked for again when the code changes.",
        is_in_files=False,
    )


@dataclass(frozen=True, kw_only=True)
class Json:
    """The form of what is printed."""

    json: bool = option(False, kinds.SWITCH, "Print JSON instead of tables.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Trust):
    """Where a search goes on, where it writes, and how much it says."""

    config: str | None = _run(
        None, kinds.FILE, "TOML file of these options; the command line wins.", is_in_files=False
    )
    sweep: str | None = option(
        None,
        kinds.SWEEP,
        "With --from: many budgets, from, to and step, e.g. flops=0.3:0.9:0.1. Each has its run "
        "directory in --output, beside sweep.json and report.html; --budget bounds other costs.",
        panel=Panel.GOAL,
    )
    output: str | None = _run(
        None,
        kinds.FOLDER,
        "The run directory (default: the next free runs/MODEL-NUMBER).",
        is_basic=True,
        is_renewable=True,
    )
    resume: bool = _run(
        False,
        kinds.SWITCH,
        f"Continue the search in --output; {MAY_BE_GIVEN_AGAIN} (a finished search goes on if "
        "--trials, --time or --recover is raised).",
        is_basic=True,
        is_in_files=False,
    )
    verbose: bool = _run(
        False, kinds.SWITCH, "Also print where the seconds went.", is_renewable=True
    )
    quiet: bool = _run(False, kinds.SWITCH, "Print only the run directory.", is_renewable=True)


@dataclass(frozen=True, kw_only=True)
class InspectOptions(InputShape, Restrictions, Network, Json):
    """What `autoprune inspect` shows."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Trust, Origin, Json):
    """What `autoprune evaluate` compares, and where."""

    run: str = _compared(MISSING, kinds.RUN, "A run directory.", is_positional=True)
    split: str | None = _compared(
        None, kinds.NAME, "test, val or train (default: the first of these that there is)."
    )
    evaluate: str | None = _compared(
        None,
        kinds.OBJECT,
        "A function from a network to its score, path/to/file.py:function or "
        "package.module:function (default: that of the run, if it had one).",
    )
    kit: str | None = _measuring(
        None,
        kinds.FOLDER,
        "Write a folder that measures both networks on a device with Python and ONNX Runtime.",
    )
    from_kit: str | None = _measuring(
        None, kinds.FILE, "Put what that kit measured into the run's result."
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand(Trust, Origin):
    """What `autoprune finetune` trains, and how it goes on."""

    run: str = _compared(MISSING, kinds.RUN, "A run directory.", is_positional=True)
    loss: str | None = _training(
        None,
        kinds.OBJECT,
        "For tasks that are not classification: a function from outputs and targets to a scalar, "
        "path/to/file.py:function or package.module:function.",
        is_basic=True,
    )
    evaluate: str | None = _compared(
        None,
        kinds.OBJECT,
        "What the best network is chosen by: a function from a network to its score, "
        "path/to/file.py:function or package.module:function (default: that of the run, if it had "
        "one; else KL from the dense network and cross entropy on the validation images, without "
        "distillation accuracy).",
    )
    distance: str | None = _compared(
        None,
        kinds.OBJECT,
        "What the dense network teaches by: a function of a network's outputs and the dense "
        "network's to how far they are apart, path/to/file.py:function or package.module:function "
        "(default: that of the run, if it had one; else KL of class scores, squared errors of "
        "other outputs).",
    )
    resume: bool = _run(
        False, kinds.SWITCH, "Go on with a fine-tuning that was interrupted.", is_in_files=False
    )
    overwrite: bool = _run(
        False, kinds.SWITCH, "Replace an earlier fine-tuning of the run.", is_in_files=False
    )
    quiet: bool = _run(False, kinds.SWITCH, "Print only the run directory.", is_in_files=False)


@dataclass(frozen=True, kw_only=True)
class TrainCommand(Trust, Origin):
    """What `autoprune train` trains, where it writes, and how it goes on."""

    loss: str | None = declared_in(FinetuneCommand, "loss")
    evaluate: str | None = declared_in(SearchConfig, "evaluate")
    config: str | None = declared_in(RunOptions, "config")
    output: str | None = declared_in(RunOptions, "output")
    resume: bool = _run(
        False,
        kinds.SWITCH,
        "Go on with the training in --output; nothing else need be given.",
        is_in_files=False,
    )
    quiet: bool = _run(False, kinds.SWITCH, "Print only the run directory.", is_in_files=False)


@dataclass(frozen=True, kw_only=True)
class SparsifyCommand(Trust, Origin):
    """What `autoprune sparsify` changes, and where it writes."""

    loss: str | None = declared_in(FinetuneCommand, "loss")
    evaluate: str | None = declared_in(SearchConfig, "evaluate")
    output: str | None = declared_in(RunOptions, "output")
    resume: bool = declared_in(TrainCommand, "resume")
    quiet: bool = declared_in(TrainCommand, "quiet")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Trust, Photos, Network, Json):
    """What `autoprune export` writes."""

    run: str = _written(MISSING, kinds.RUN, "A run directory.", is_positional=True)
    format: str = _written(
        "onnx",
        kinds.FORMAT,
        f"{choices(FORMATS.names, 'onnx')}, an entry point of {FORMATS.group}, or "
        "path/to/file.py:Class.",
    )
    int8: bool = _written(
        False,
        kinds.SWITCH,
        "Quantise weights and activations by the run's calibration samples (onnx, openvino).",
    )
    output: str | None = _written(
        None, kinds.FILE, "The file (default: RUN/export/pruned.SUFFIX, pruned-int8.SUFFIX)."
    )


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `autoprune report` shows, and where."""

    runs: tuple[str, ...] = _compared(
        MISSING, kinds.RUNS, "Run directories of finished searches.", is_positional=True
    )
    output: str | None = option(
        None,
        kinds.FILE,
        "The page (default: RUN/report.html, which is replaced; for several runs report.html).",
    )


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Json):
    """What `autoprune compare` shows."""

    runs: tuple[str, ...] = _compared(
        MISSING, kinds.RUNS, "Run directories of finished searches.", is_positional=True
    )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Json):
    """What `autoprune explain` shows."""

    run: str = _compared(MISSING, kinds.RUN, "A run directory.", is_positional=True)
    layer: str | None = _compared(
        None,
        kinds.LAYER,
        "A layer, or the group that its channels are in (default: all groups).",
        is_positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class StatusOptions(Json):
    """What `autoprune status` shows."""

    run: str = _compared(
        MISSING,
        kinds.RUN,
        "A run directory, of a search that is going on, interrupted or finished.",
        is_positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """Which run `autoprune dashboard` shows, and where."""

    run: str = _run(
        MISSING,
        kinds.RUN,
        "A run directory, of a search that is going on, interrupted or finished.",
        is_positional=True,
    )
    port: int = _run(
        8080,
        kinds.WHOLE,
        "The port of this machine that it listens to.",
    )


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What `autoprune push` uploads, and where to."""

    run: str = _written(MISSING, kinds.RUN, "A run directory.", is_positional=True)
    repository: str = _written(
        MISSING, kinds.REPOSITORY, "The repository, which the model card names.", is_positional=True
    )
    private: bool = _written(False, kinds.SWITCH, "Make a new repository for its owner alone.")
    folder: str | None = _written(
        None, kinds.FOLDER, "Write a new folder with the same files instead; nothing is uploaded."
    )


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(InputShape, Network):
    """What `autoprune profile` measures, and how."""

    backend: str = _measuring(
        "torch",
        kinds.BACKEND,
        f"{choices(BACKENDS.names, 'torch')}, an entry point of {BACKENDS.group}, or "
        "path/to/file.py:Class.",
    )
    device: str = _measuring(
        "cpu",
        kinds.NAME,
        "cpu (default), cuda, cuda:1, … or an execution provider of ONNX Runtime.",
    )
    threads: int | None = _measuring(
        None, kinds.WHOLE, "Threads of one run (default: as many as the runtime uses by itself)."
    )
    batch: int = _measuring(1, kinds.WHOLE, "Samples of one run.")
    dtype: str = _measuring("float32", kinds.NAME, "float32, float16, bfloat16 or float64.")
    channels_last: bool = _measuring(False, kinds.SWITCH, "Lay images out with the channels last.")
    kit: str | None = _measuring(
        None,
        kinds.FOLDER,
        "Measure on another device: write a folder for one with Python and ONNX Runtime.",
    )
    from_kit: str | None = _measuring(None, kinds.FILE, "Make the table of a kit's results.")
    ray: str | None = _measuring(
        None,
        kinds.CLUSTER,
        "Measure every node of a Ray cluster, each into a table of its own, FILE-NODE.json (needs "
        "autoprune[ray]): the cluster at HOST:PORT, or (auto) the one that this machine belongs "
        "to; a node has nothing else to do meanwhile.",
    )
    plot: str | None = _measuring(
        None, kinds.FILE, "Draw the table: an HTML page with latency against width."
    )
    output: str = _measuring("latency.json", kinds.FILE, "The table.")


SUBJECT = (*options_of(Origin), "evaluate")
"""Options by which a command takes another network, other data or another score than the run's."""

OF_COMMANDS: Mapping[str, Sequence[type]] = {
    "search": (Origin, SearchConfig, RunOptions),
    "inspect": (InspectOptions,),
    "profile": (ProfileOptions,),
    "evaluate": (EvaluateOptions,),
    "finetune": (FinetuneCommand, FinetuneConfig),
    "train": (TrainCommand, TrainConfig),
    "sparsify": (SparsifyCommand, SparsifyConfig),
    "export": (ExportOptions,),
    "report": (ReportOptions,),
    "compare": (CompareOptions,),
    "explain": (ExplainOptions,),
    "status": (StatusOptions,),
    "dashboard": (DashboardOptions,),
    "push": (PushOptions,),
}
"""The dataclasses that declare the options of each command."""
NAMING_CODE: Mapping[str, Option] = {
    name: one
    for own in OF_COMMANDS.values()
    for name, one in options_of(*own).items()
    if one.kind.is_installed is not None
}
"""The options whose values may name code: it is imported from a file only by consent."""
_FLAGS = {
    name: one.option_string
    for own in OF_COMMANDS.values()
    for name, one in options_of(*own).items()
}


def on_command_line(option: str, value: Any = None) -> str:
    """Return an option as it is typed: "--max-drop", or "--max-drop 1" with a value."""
    flag = _FLAGS.get(option, option)
    return flag if value is None or value is True else f"{flag} {shlex.quote(str(value))}"
