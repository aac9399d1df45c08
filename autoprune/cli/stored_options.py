"""Options that stand in config files and runs, taken over by consent where they name code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.core.untrusted import read_toml
from autoprune.errors import UsageError, did_you_mean, file_fault, in_python, shown, spelling, spelt
from autoprune.options.commands import on_command_line
from autoprune.options.component_tables import unused_tables, with_config
from autoprune.options.option import Option
from autoprune.options.stored import (
    IN_FILES,
    REMARKS,
    in_todays_words,
    stored_settings,
    with_own_weights,
)

# How the code of a run or config file is agreed to.
NAME_OR_TRUST = "name it yourself on the command line, or give --trust if you trust it"
# What is known in a config file, and on the command line; a run's remarks are passed over.
KNOWN: Mapping[str, Option] = {name: one for name, one in IN_FILES.items() if name not in REMARKS}


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


def read_config(
    path: Path,
    chosen: str | None = None,
    kind: str = "strategy",
    known: Mapping[str, Option] = KNOWN,
) -> dict[str, Any]:
    """Return the options in a config file; the config.toml of a run is one.

    Args:
        path: of the file.
        chosen: the strategy, or the component of the kind, that the command line chooses, if any.
        kind: "strategy", or "method", which may have tables.
        known: the options that there may be.

    Raises:
        UsageError: it is missing, no TOML, or holds an unknown key or a wrong type.
    """
    try:
        content = read_toml(path)
    except (OSError, ValueError) as error:
        reason = file_fault(error)
        if "overwrite" in reason:  # as TOML calls it
            reason += f"; a table [{kind}.NAME] names the {kind} already: leave out {kind} ="
        raise UsageError(f"config file {str(path)!r} cannot be read: {reason}.") from error
    if content.keys() & set(REMARKS):  # a run's own, perhaps of an older version
        content = with_own_weights(in_todays_words(content), path.parent)
    return read_values(content, f"config file {str(path)!r}: ", chosen, kind, known)


def read_values(
    values: Mapping[str, Any],
    where: str,
    chosen: str | None = None,
    kind: str = "strategy",
    known: Mapping[str, Option] = KNOWN,
) -> dict[str, Any]:
    """Return the values that plain ones stand for; messages begin with the place."""
    plain = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name.replace("-", "_") not in {*known, *REMARKS}:
            keys = [one.replace("_", "-") for one in known]
            raise UsageError(f"{where}unknown key {shown(name)}; {did_you_mean(name, keys)}")
    for table in unused_tables(plain, kind, chosen):
        from autoprune.cli.display import warn

        warn(f"{where}{table} is not used, since --{kind} {chosen} is given")
    try:
        with spelling(in_python if where else on_command_line):
            if plain.get("quiet") and plain.get("verbose"):
                raise UsageError(f"{spelt('quiet')} and {spelt('verbose')} exclude each other.")
            plain = with_config(plain, kind, chosen)
            return {key: known[key].read(plain[key]) for key in plain if key in known}
    except UsageError as error:
        raise UsageError(f"{where}{error}") from error


def recalled(
    option: str, given: Mapping[str, Any], known: Mapping[str, Option], trusts: bool
) -> dict[str, Any]:
    """Return what the run was made of that an option names, if it is given.

    What is given overrides it, group by group (`Option.recalled_with`).

    Args:
        option: "from_run", for instance.
        given: plain values of the options that were given.
        known: the options that can be taken over.
        trusts: whether code may be imported because the run names it.

    Raises:
        UsageError: the run does not say what its model was, and none is given.
    """
    if option not in given:
        return {}
    stored = stored_options(given[option])
    taken_by_user = {known[key].recalled_with for key in given if key in known}
    free = [key for key, one in known.items() if one.recalled_with not in {*taken_by_user, None}]
    if "model" in free and "model" not in stored:
        raise UsageError(
            f"the run in {given[option]!r} was begun from Python: give --model and --data, or "
            f"name it there, with {option}=…."
        )
    taken = {key: stored[key] for key in free if key in stored}
    return agreed(Path(given[option]), taken, trusts, NAME_OR_TRUST)


def stored_options(path: str) -> dict[str, Any]:
    """Return the options that a run was begun with."""
    from autoprune.study.run_directory import RunDirectory

    run = RunDirectory(path)
    return read_values(in_todays_words(stored_settings(run)), f"{str(run.config_path)!r}: ")
