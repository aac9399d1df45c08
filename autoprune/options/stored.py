"""What a run's config.toml holds: the options, where they came from, and remarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import UsageError
from autoprune.options import search
from autoprune.options.commands import RunOptions
from autoprune.options.kinds import AMOUNT, NAME, VERSIONS
from autoprune.options.option import Option, options_of
from autoprune.options.origin import Origin

if TYPE_CHECKING:
    from autoprune.study.run_directory import RunDirectory

_ORIGIN = options_of(Origin)
ORIGIN = tuple(_ORIGIN)
"""Options that say where model and data come from."""
_REMARKS = {
    "autoprune": Option(NAME, "The version that began the run.", name="autoprune"),
    "versions": Option(VERSIONS, "Those of the libraries.", name="versions"),
    "judge": Option(NAME, "The search evaluator.", name="judge"),
    "repair_samples": Option(AMOUNT, "Samples that repair uses.", name="repair_samples"),
    "process": Option(NAME, "The run's name in a study that it shares.", name="process"),
}
REMARKS = tuple(_REMARKS)
"""Keys of a config.toml that are not options."""
SETTINGS: Mapping[str, Option] = {**_ORIGIN, **search.OPTIONS, **_REMARKS}
IN_FILES: Mapping[str, Option] = {
    name: one for name, one in {**SETTINGS, **options_of(RunOptions)}.items() if one.is_in_files
}
"""Every key that autoprune reads from a config.toml or another config file."""


def stored_settings(run: RunDirectory) -> dict[str, Any]:
    """Return the configuration of a run; what is known there is of the right type.

    Raises:
        RunError: there is no run, or its configuration cannot be read.
        UsageError: a value is of the wrong type or cannot be meant.
    """
    stored = run.load_config()
    for key in stored.keys() & SETTINGS.keys():
        try:
            SETTINGS[key].read(stored[key])
        except UsageError as error:
            raise UsageError(f"{str(run.config_path)!r}: {error}") from error
    return with_own_weights(stored, run.path)


def with_own_weights(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a run with the whole path of weights that lie in its directory.

    A network that was trained to be cut does: the run can be moved with it.
    """
    weights = options.get("weights", "")
    own = folder / weights
    is_inside = weights and not Path(weights).is_absolute() and own.is_file()
    return {**options, "weights": str(own.absolute())} if is_inside else dict(options)


def is_outdated(options: Mapping[str, Any]) -> bool:
    """Return whether a run's options are of a version that trained what is frozen.

    There, `exclude` left the outputs of layers alone, not their inputs and values.
    """
    return "train_frozen" not in options


def in_todays_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run so that they say what they did when it was begun."""
    if "workers" in options and "at_once" not in options:
        options = {**options, "at_once": options["workers"]}
    if not is_outdated(options):
        return dict(options)
    outputs = options.get("exclude", [])
    return {**options, "exclude": [], "exclude_outputs": outputs, "train_frozen": True}
