"""The options of one search, merged from the command line, a config file or an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from autoprune.cli.display import warn
from autoprune.core.plugins import absolute, absolute_object
from autoprune.core.untrusted import read_toml
from autoprune.data import absolute_data
from autoprune.engine.trust import check_trusted, trust
from autoprune.errors import UsageError, did_you_mean, first_line, shown
from autoprune.evaluation.reward import DEFAULT_REWARD, find_reward, needs_no_budget
from autoprune.models import DEMO, DEMO_DATA
from autoprune.models.specs import absolute_model
from autoprune.options.search import (
    ORIGIN,
    REMARKS,
    RENEWABLE,
    SearchConfig,
    in_todays_words,
    read_setting,
    stored_settings,
)
from autoprune.study.run_directory import RunDirectory, next_free

# What a search that recalls the policies of a run takes over: the network with its images, what is
# cut of it, and by which table its latency is foretold. What is said oneself goes before, each time
# for all that belongs together.
_RECALLED = (
    ("model", "weights", "data", "normalize", "classes"),
    ("latency_table", "latency_backend"),
    ("exclude", "exclude_outputs"),
    *(("train_frozen",), ("min_keep",), ("round_to",), ("importance",)),
)
# Given anew when a search is resumed; all else comes from the run.
_RENEWABLE = (*RENEWABLE, "output", "verbose", "quiet")
_SEARCH = tuple(field.name for field in fields(SearchConfig))
_SWITCHES = ("verbose", "quiet")
# False says something here.
_DELIBERATE = ("verify_latency", "train_frozen")
# Read in words that mean the same in any folder.
_LASTING: Mapping[str, Callable[[str], str]] = {
    **dict.fromkeys(("from_run", "latency_table", "agent"), absolute),
    "latency_backend": absolute_object,
}
# How the code of a run or config file is agreed to.
NAME_OR_TRUST = "name it yourself on the command line, or give --trust if you trust it"
_OWN = (*_SWITCHES, "output")
_KEYS = (*ORIGIN, *_SEARCH, *_OWN)


@dataclass(frozen=True)
class Settings:
    """What a search is to do.

    Attributes:
        origin: where model and data come from: "model" and "data", perhaps "weights",
            "normalize", "classes" and "device".
        search: fields of `SearchConfig`.
        output: the run directory.
        resume: whether the run is there already.
        verbose, quiet: how much is printed.
    """

    origin: Mapping[str, str]
    search: Mapping[str, Any]
    output: Path
    resume: bool
    verbose: bool
    quiet: bool

    @property
    def lasting_origin(self) -> dict[str, str]:
        """The origin in words that mean the same in any folder."""
        readers = {
            "model": absolute_model,
            "data": absolute_data,
            **dict.fromkeys(("weights", "classes"), absolute),
        }
        return {key: readers.get(key, str)(value) for key, value in self.origin.items()}

    @property
    def lasting_search(self) -> dict[str, Any]:
        """The same of the search; what a run was begun with stays as it is."""
        named = set() if self.resume else self.search.keys() & {"reward", "importance", "strategy"}
        return {**self.search, **{key: absolute_object(self.search[key]) for key in named}}


def gather(options: Mapping[str, Any]) -> Settings:
    """Return the settings that a command line means.

    Args:
        options: as given, by their names with underscores; None, False or empty if not given.

    Raises:
        UsageError: an option or a key is unknown, of the wrong type, missing or not allowed here.
    """
    given = _given(options)
    resume, config = given.pop("resume", False), given.pop("config", None)
    trusts = given.pop("trust", False)
    if resume:
        merged = {**_of_run(given, config, trusts), **_read(given, "")}
    else:
        merged = _read(given, "")
        if config:
            merged = {**_of_config(Path(config), merged, trusts), **merged}
        merged = {**_recalled(merged, trusts), **merged}
        merged = {**merged, **_model_and_data(merged)}
    merged |= {key: read(merged[key]) for key, read in _LASTING.items() if key in merged}
    reward = find_reward(merged.get("reward", DEFAULT_REWARD)).name
    if "budget" not in merged and "max_drop" not in merged and not needs_no_budget(reward):
        raise UsageError(
            "--budget is missing: write e.g. --budget flops=0.5 (half of the MACs), --max-drop 1 "
            "(as small as one point of accuracy allows), or --budget none with a reward of your "
            "own that weighs the costs."
        )
    return Settings(
        origin={key: merged[key] for key in ORIGIN if key in merged},
        search={key: merged[key] for key in _SEARCH if key in merged},
        output=Path(merged["output"]) if "output" in merged else _free_output(merged["model"]),
        resume=resume,
        verbose=merged.get("verbose", False),
        quiet=merged.get("quiet", False),
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given (but not a 0), with lists as TOML has them."""
    plain: dict[str, Any] = {k: list(v) if type(v) is tuple else v for k, v in options.items()}
    off = {k for k, v in plain.items() if v is False and k not in _DELIBERATE}
    return {k: v for k, v in plain.items() if v is not None and k not in off and v != []}


def _of_config(path: Path, given: Mapping[str, Any], trusts: bool) -> dict[str, Any]:
    """Return what a config file says besides what is given."""
    found = {key: value for key, value in read_config(path).items() if key not in given}
    run = RunDirectory(path.parent)
    place = run.path if path == run.config_path else path  # a run's own repeats it
    return agreed(place, found, trusts, NAME_OR_TRUST)


def agreed(place: Path, options: Mapping[str, Any], trusts: bool, how: str) -> dict[str, Any]:
    """Return what is taken from a run directory or config file, if its code may run.

    Args:
        place: the directory or file.
        options: taken from it.
        trusts: whether the user says that it may; that is remembered.
        how: he can say so.

    Raises:
        UsageError: it names code that the user did not agree to.
    """
    if not trusts:
        check_trusted(place, options, how)
    elif (failure := trust(place, options)) is not None:
        warn(failure)
    return dict(options)


def read_config(path: Path) -> dict[str, Any]:
    """Return the options in a config file; the config.toml of a run is one.

    Raises:
        UsageError: it is missing, no TOML, or holds an unknown key or a wrong type.
    """
    try:
        content = read_toml(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"config file {str(path)!r} cannot be read: {first_line(error)}"
        ) from error
    if content.keys() & set(REMARKS):  # a run's own, perhaps of an older version
        content = in_todays_words(content)
    return _read(content, f"config file {str(path)!r}: ")


def _read(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        if key in REMARKS:
            continue
        if key not in _KEYS:
            known = [known.replace("_", "-") for known in _KEYS]
            raise UsageError(f"{where}unknown key {shown(name)}; {did_you_mean(name, known)}")
        try:
            options[key] = (_read_own if key in _OWN else read_setting)(key, value)
        except UsageError as error:
            raise UsageError(f"{where}{error}") from error
    return options


def _read_own(key: str, value: Any) -> str | bool:
    kind, wanted = (bool, "true or false") if key in _SWITCHES else (str, "a text")
    if not isinstance(value, kind):
        raise UsageError(f"{key} must be {wanted}, but got {shown(value)}.")
    return value


def _of_run(given: Mapping[str, Any], config: str | None, trusts: bool) -> dict[str, Any]:
    """Return the settings of the run in --output."""
    if "output" not in given:
        raise UsageError("--resume needs --output DIR: the run directory of the search.")
    fixed = ["config"] if config else []
    fixed += [key for key in given if key not in _RENEWABLE]
    if fixed:
        names = ", ".join(f"--{key.replace('_', '-')}" for key in fixed)
        raise UsageError(
            f"--resume takes everything from the run in {given['output']!r}: leave out {names} "
            "(only --trials, --time and --recover may be given anew)."
        )
    stored = _stored(given["output"])
    if not {"model", "data"} <= stored.keys():
        raise UsageError(
            f"the run in {given['output']!r} was begun from Python: resume it there, with "
            "autoprune.search(…, resume=True)."
        )
    return agreed(Path(given["output"]), stored, trusts, "if you trust it, give --trust")


def _recalled(merged: Mapping[str, Any], trusts: bool) -> dict[str, Any]:
    """Return what the run searched whose policies are recalled, if any are, but for what is given.

    Raises:
        UsageError: the run does not say what its model was, and none is given.
    """
    if "from_run" not in merged:
        return {}
    stored = _stored(merged["from_run"])
    free = [key for keys in _RECALLED if not merged.keys() & set(keys) for key in keys]
    if "model" in free and "model" not in stored:
        raise UsageError(
            f"the run in {merged['from_run']!r} was begun from Python: give --model and --data, or "
            "recall it there, with autoprune.search(…, from_run=…)."
        )
    taken = {key: stored[key] for key in free if key in stored}
    return agreed(Path(merged["from_run"]), taken, trusts, NAME_OR_TRUST)


def _stored(path: str) -> dict[str, Any]:
    """Return the options that a run was begun with."""
    run = RunDirectory(path)
    return _read(in_todays_words(stored_settings(run)), f"{str(run.config_path)!r}: ")


def _model_and_data(merged: Mapping[str, Any]) -> dict[str, str]:
    """Return model and data; the demo's where nothing is said.

    Raises:
        UsageError: one is given without the other.
    """
    model = merged.get("model")
    data = merged.get("data")
    if model is None and data is not None:
        raise UsageError(f"--data {data} needs --model SPEC (--model demo is the demo's network).")
    if model not in (None, DEMO) and data is None:
        raise UsageError(f"--model {model} needs --data SPEC: see autoprune search --help.")
    return {"model": model or DEMO, "data": data or DEMO_DATA}


def _free_output(model: str) -> Path:
    return next_free(Path("runs"), model.rpartition(":")[2].lower())
