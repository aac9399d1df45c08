"""The options of one search, merged from the command line, a config file or an earlier run.

What is wrong with a value is said before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.core.untrusted import read_toml
from autoprune.cost.budget_sweep import Sweep
from autoprune.errors import UsageError, did_you_mean, file_fault, in_python, shown, spelling, spelt
from autoprune.options.commands import on_command_line
from autoprune.options.option import Option
from autoprune.options.search import OPTIONS, RENEWABLE, SearchConfig, budgets_of
from autoprune.options.stored import (
    IN_FILES,
    ORIGIN,
    REMARKS,
    SETTINGS,
    in_todays_words,
    stored_settings,
    with_own_weights,
)
from autoprune.options.strategies import unused_tables, with_strategy_config

# How the code of a run or config file is agreed to.
NAME_OR_TRUST = "name it yourself on the command line, or give --trust if you trust it"
# What is known in a config file, and on the command line; a run's remarks are passed over.
_KNOWN: Mapping[str, Option] = {name: one for name, one in IN_FILES.items() if name not in REMARKS}
_FLAGS = ", ".join(OPTIONS[name].option_string for name in RENEWABLE[:-1])
_MAY_BE_GIVEN = f"only {_FLAGS} and {OPTIONS[RENEWABLE[-1]].option_string} may be given again"


@dataclass(frozen=True)
class Settings:
    """What a search is to do.

    Attributes:
        origin: where model and data come from: "model" and "data", perhaps "weights",
            "normalize", "classes" and "device".
        search: fields of `SearchConfig`.
        output: the run directory, or that of a sweep.
        sweep: the budgets of a sweep; None for one search.
        resume: whether the run is there already.
        verbose, quiet: how much is printed.
    """

    origin: Mapping[str, str]
    search: Mapping[str, Any]
    output: Path
    sweep: str | None
    resume: bool
    verbose: bool
    quiet: bool

    @property
    def lasting_origin(self) -> dict[str, str]:
        """The origin in words that mean the same in any folder."""
        return lasting(self.origin)

    @property
    def lasting_search(self) -> dict[str, Any]:
        """The same of the search; what a run was begun with stays as it is."""
        return dict(self.search) if self.resume else lasting(self.search)


def gather(given: Mapping[str, Any]) -> Settings:
    """Return the settings that a command line means.

    Args:
        given: plain values of the options that were given, by their names with underscores.

    Raises:
        UsageError: an option or a key is unknown, of the wrong type, missing or not allowed here.
    """
    said = dict(given)
    resume, config = said.pop("resume", False), said.pop("config", None)
    trusts = said.pop("trust", False)
    merged = _read(said, "")
    if resume:
        merged = {**_of_run(merged, config, trusts), **merged}
    else:
        if config:
            merged = {**_of_config(Path(config), merged, trusts), **merged}
        merged = {**_recalled(merged, trusts), **merged}
    _check(merged)
    origin = {key: merged[key] for key in ORIGIN if key in merged}
    if not resume:
        origin |= model_and_data(origin)
    return Settings(
        origin=origin,
        search={key: merged[key] for key in OPTIONS if key in merged},
        output=Path(merged["output"]) if "output" in merged else free_output(origin["model"]),
        sweep=merged.get("sweep"),
        resume=resume,
        verbose=merged.get("verbose", False),
        quiet=merged.get("quiet", False),
    )


def lasting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in words that mean the same in any folder."""
    absolute = {key: SETTINGS[key].kind.absolute for key in values}
    return {
        key: value if value is None or (convert := absolute[key]) is None else convert(value)
        for key, value in values.items()
    }


def _check(merged: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant, by the names that the user gave."""
    from autoprune.evaluation.reward import find_reward

    if "reward" in merged:
        find_reward(merged["reward"])
    options = {key: merged[key] for key in OPTIONS if key in merged}
    if "sweep" in merged:
        options["budget"] = next(iter(budgets_of(Sweep.parse(merged["sweep"]), options).values()))
    SearchConfig.from_mapping(options)
    if merged.get("evaluate") is not None or merged.get("distance") is not None:
        from autoprune.evaluation.scoring import find_distance, find_evaluate

        find_evaluate(merged.get("evaluate"))
        find_distance(merged.get("distance"))


def _of_config(path: Path, given: Mapping[str, Any], trusts: bool) -> dict[str, Any]:
    """Return what a config file says of options that were not given."""
    content = read_config(path, given.get("strategy"))
    from autoprune.study.run_directory import RunDirectory  # only now: it imports PyTorch

    found = _without_storage({k: value for k, value in content.items() if k not in given})
    run = RunDirectory(path.parent)
    place = run.path if path == run.config_path else path  # a run's own repeats it
    return agreed(place, found, trusts, NAME_OR_TRUST)


def _without_storage(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without the storage: a file from anybody may name anybody's."""
    return {key: value for key, value in options.items() if key != "storage"}


def agreed(place: Path, options: Mapping[str, Any], trusts: bool, how: str) -> dict[str, Any]:
    """Return what is taken from a run directory or config file, if its code may run.

    Args:
        place: the directory or file.
        options: taken from it.
        trusts: whether the user says that it may; that is remembered.
        how: the user can say so.

    Raises:
        UsageError: it names code that the user did not agree to.
    """
    from autoprune.cli.display import warn
    from autoprune.engine.trust import check_trusted, trust

    if not trusts:
        check_trusted(place, options, how)
    elif (failure := trust(place, options)) is not None:
        warn(failure)
    return dict(options)


def read_config(path: Path, strategy: str | None = None) -> dict[str, Any]:
    """Return the options in a config file; the config.toml of a run is one.

    Args:
        path: of the file.
        strategy: the one that the command line chooses, if it does.

    Raises:
        UsageError: it is missing, no TOML, or holds an unknown key or a wrong type.
    """
    try:
        content = read_toml(path)
    except (OSError, ValueError) as error:
        reason = file_fault(error)
        if "overwrite" in reason:  # as TOML calls it
            reason += "; a table [strategy.NAME] names the strategy already: leave out strategy ="
        raise UsageError(f"config file {str(path)!r} cannot be read: {reason}") from error
    if content.keys() & set(REMARKS):  # a run's own, perhaps of an older version
        content = with_own_weights(in_todays_words(content), path.parent)
    return _read(content, f"config file {str(path)!r}: ", strategy)


def _read(values: Mapping[str, Any], where: str, strategy: str | None = None) -> dict[str, Any]:
    """Return the values that plain ones stand for; messages begin with the place."""
    plain = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name.replace("-", "_") not in {*_KNOWN, *REMARKS}:
            known = [known.replace("_", "-") for known in _KNOWN]
            raise UsageError(f"{where}unknown key {shown(name)}; {did_you_mean(name, known)}")
    for table in unused_tables(plain, strategy):
        from autoprune.cli.display import warn

        warn(f"{where}{table} is not used, since --strategy {strategy} is given")
    try:
        with spelling(in_python if where else on_command_line):
            if plain.get("quiet") and plain.get("verbose"):
                raise UsageError(f"{spelt('quiet')} and {spelt('verbose')} exclude each other.")
            plain = with_strategy_config(plain, strategy)
            return {key: _KNOWN[key].read(plain[key]) for key in plain if key in _KNOWN}
    except UsageError as error:
        raise UsageError(f"{where}{error}") from error


def _of_run(given: Mapping[str, Any], config: str | None, trusts: bool) -> dict[str, Any]:
    """Return the settings of the run in --output."""
    if "output" not in given:
        raise UsageError("--resume needs --output DIR: the run directory of the search.")
    fixed = ["--config"] if config else []
    fixed += [_KNOWN[key].option_string for key in given if not _KNOWN[key].is_renewable]
    if fixed:
        raise UsageError(
            f"--resume takes everything from the run in {given['output']!r}: leave out "
            f"{', '.join(fixed)} ({_MAY_BE_GIVEN})."
        )
    stored = _without_storage(_begun(given["output"]))
    if not {"model", "data"} <= stored.keys():
        raise UsageError(
            f"the run in {given['output']!r} was begun from Python: resume it there, with "
            "autoprune.search(…, resume=True)."
        )
    return agreed(Path(given["output"]), stored, trusts, "if you trust it, give --trust")


def _recalled(merged: Mapping[str, Any], trusts: bool) -> dict[str, Any]:
    """Return what the run searched whose policies are recalled, if any are.

    What is given overrides it, group by group (`Option.recalled_with`).

    Raises:
        UsageError: the run does not say what its model was, and none is given.
    """
    if "from_run" not in merged:
        return {}
    stored = _stored(merged["from_run"])
    taken_by_user = {_KNOWN[key].recalled_with for key in merged}
    free = [key for key, one in _KNOWN.items() if one.recalled_with not in {*taken_by_user, None}]
    if "model" in free and "model" not in stored:
        raise UsageError(
            f"the run in {merged['from_run']!r} was begun from Python: give --model and --data, or "
            "recall it there, with autoprune.search(…, from_run=…)."
        )
    taken = {key: stored[key] for key in free if key in stored}
    return agreed(Path(merged["from_run"]), taken, trusts, NAME_OR_TRUST)


def _begun(path: str) -> dict[str, Any]:
    """Return the options that a run, or a sweep, goes on with."""
    from autoprune.study.sweep_directory import SweepDirectory

    sweep = SweepDirectory(path)
    if not sweep.is_begun:
        return _stored(path)
    record = sweep.load()
    stored = {key: value for key, value in record.settings.items() if key not in REMARKS}
    return _read({**stored, "sweep": record.sweep}, f"{str(sweep.record_path)!r}: ")


def _stored(path: str) -> dict[str, Any]:
    """Return the options that a run was begun with."""
    from autoprune.study.run_directory import RunDirectory

    run = RunDirectory(path)
    return _read(in_todays_words(stored_settings(run)), f"{str(run.config_path)!r}: ")


def model_and_data(origin: Mapping[str, str], command: str = "search") -> dict[str, str]:
    """Return model and data; the demo's where nothing is said.

    Raises:
        UsageError: one is given without the other.
    """
    from autoprune.models import DEMO, DEMO_DATA

    model, data = origin.get("model"), origin.get("data")
    if model is None and data is not None:
        raise UsageError(f"--data {data} needs --model SPEC (--model demo is the demo's network).")
    if model not in (None, DEMO) and data is None:
        raise UsageError(f"--model {model} needs --data SPEC: see autoprune {command} --help.")
    return {"model": model or DEMO, "data": data or DEMO_DATA}


def free_output(model: str) -> Path:
    """Return the next run directory of a network that is free."""
    from autoprune.study.run_directory import next_free

    return next_free(Path("runs"), model.rpartition(":")[2].lower())
