"""The options of every command; each command takes its own as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass

from autoprune.options.kinds import OBJECT, PATH, SWITCH, TEXT, WHOLE
from autoprune.options.network import InputShape, Limits, Network, Origin
from autoprune.options.option import Panel, option
from autoprune.options.search import SearchConfig


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Consent to code that files name."""

    trust: bool = option(
        False,
        SWITCH,
        "Run the code (model, data, reward, …) that the run directory or config file names, also "
        "if it was not made here; it is asked for again when the code changes.",
        panel=Panel.RUN,
        is_in_files=False,
    )


@dataclass(frozen=True, kw_only=True)
class Json:
    """The form of what is printed."""

    json: bool = option(False, SWITCH, "Print JSON instead of tables.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Trust):
    """Where a search goes on, where it writes, and how much it says."""

    config: str | None = option(
        None,
        PATH,
        "TOML file of these options; the command line wins.",
        "FILE",
        panel=Panel.RUN,
        is_in_files=False,
    )
    output: str | None = option(
        None,
        TEXT,
        "The run directory (default: the next free runs/MODEL-NUMBER).",
        "DIR",
        panel=Panel.RUN,
        is_basic=True,
        is_renewable=True,
    )
    resume: bool = option(
        False,
        SWITCH,
        "Continue the search in --output; only --trials, --time and --recover may be given again "
        "(a finished search goes on if they are raised).",
        panel=Panel.RUN,
        is_basic=True,
        is_in_files=False,
    )
    verbose: bool = option(
        False,
        SWITCH,
        "Also print where the seconds went.",
        panel=Panel.RUN,
        is_renewable=True,
    )
    quiet: bool = option(
        False,
        SWITCH,
        "Print only the run directory.",
        panel=Panel.RUN,
        is_renewable=True,
    )


@dataclass(frozen=True, kw_only=True)
class InspectOptions(InputShape, Limits, Network, Json):
    """What `autoprune inspect` shows."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Trust, Origin, Json):
    """What `autoprune evaluate` compares, and where."""

    run: str = option(
        MISSING, PATH, "A run directory.", "RUN", panel=Panel.COMPARED, is_positional=True
    )
    split: str | None = option(
        None,
        TEXT,
        "test, val or train (default: the first of these that there is).",
        "NAME",
        panel=Panel.COMPARED,
    )
    evaluate: str | None = option(
        None,
        OBJECT,
        "A function from a network to its score, path/to/file.py:function or "
        "package.module:function (default: that of the run, if it had one).",
        "SPEC",
        panel=Panel.COMPARED,
    )
    kit: str | None = option(
        None,
        PATH,
        "Write a folder that measures both networks on a device with Python and ONNX Runtime.",
        "DIR",
        panel=Panel.MEASURING,
    )
    from_kit: str | None = option(
        None,
        PATH,
        "Put what that kit measured into the run's result.",
        "FILE",
        panel=Panel.MEASURING,
    )


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(InputShape, Network):
    """What `autoprune profile` measures, and how."""

    backend: str = option(
        "torch",
        OBJECT,
        "torch (default), torch-compile, onnxruntime, an entry point of autoprune.backends, or "
        "path/to/file.py:Class.",
        "NAME",
        panel=Panel.MEASURING,
    )
    device: str = option(
        "cpu",
        TEXT,
        "cpu (default), cuda, cuda:1, … or an execution provider of ONNX Runtime.",
        "NAME",
        panel=Panel.MEASURING,
    )
    threads: int | None = option(
        None,
        WHOLE,
        "Threads of one run (default: as many as the runtime uses by itself).",
        "N",
        panel=Panel.MEASURING,
    )
    batch: int = option(1, WHOLE, "Samples of one run.", "N", panel=Panel.MEASURING)
    dtype: str = option(
        "float32", TEXT, "float32, float16, bfloat16 or float64.", "NAME", panel=Panel.MEASURING
    )
    channels_last: bool = option(
        False, SWITCH, "Lay images out with the channels last.", panel=Panel.MEASURING
    )
    kit: str | None = option(
        None,
        PATH,
        "Measure on another device: write a folder for one with Python and ONNX Runtime.",
        "DIR",
        panel=Panel.MEASURING,
    )
    from_kit: str | None = option(
        None, PATH, "Make the table of a kit's results.", "FILE", panel=Panel.MEASURING
    )
    plot: str | None = option(
        None,
        PATH,
        "Draw the table: an HTML page with latency against width.",
        "FILE",
        panel=Panel.MEASURING,
    )
    output: str = option("latency.json", PATH, "The table.", "FILE", panel=Panel.MEASURING)


OF_COMMANDS: Mapping[str, Sequence[type]] = {
    "search": (Origin, SearchConfig, RunOptions),
    "inspect": (InspectOptions,),
    "profile": (ProfileOptions,),
    "evaluate": (EvaluateOptions,),
}
"""The dataclasses that declare the options of each command."""
