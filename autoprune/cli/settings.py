"""The options of one search, merged from the command line, a config file or an earlier run.

What is wrong with a value is said before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.cli.stored_options import (
    KNOWN,
    NAME_OR_TRUST,
    agreed,
    read_config,
    read_values,
    recalled,
    stored_options,
)
from autoprune.cost.budget_sweep import Sweep
from autoprune.errors import UsageError
from autoprune.options.search import (
    MAY_BE_GIVEN_AGAIN,
    OPTIONS,
    SearchConfig,
    budgets_of,
)
from autoprune.options.stored import (
    ORIGIN,
    REMARKS,
    SETTINGS,
)

log = logging.getLogger(__name__)


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
    merged = read_values(said, "")
    if resume:
        renewed = lasting({key: merged[key] for key in OPTIONS if key in merged})
        merged = {**_of_run(merged, config, trusts), **merged, **renewed}
    else:
        if config:
            merged = {**_of_config(Path(config), merged, trusts), **merged}
        for option in ("from_run", "from_training"):
            merged = {**recalled(option, merged, KNOWN, trusts), **merged}
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
    if content.get("storage") is not None and "storage" not in given:
        log.warning("%s names a storage: it is only taken from the command line, --storage", path)
    run = RunDirectory(path.parent)
    place = run.path if path == run.config_path else path  # a run's own repeats it
    return agreed(place, found, trusts, NAME_OR_TRUST)


def _without_storage(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without the storage: a file from anybody may name anybody's."""
    return {key: value for key, value in options.items() if key != "storage"}


def _of_run(given: Mapping[str, Any], config: str | None, trusts: bool) -> dict[str, Any]:
    """Return the settings of the run in --output."""
    if "output" not in given:
        raise UsageError("--resume needs --output DIR: the run directory of the search.")
    fixed = ["--config"] if config else []
    fixed += [KNOWN[key].option_string for key in given if not KNOWN[key].is_renewable]
    if fixed:
        raise UsageError(
            f"--resume takes everything from the run in {given['output']!r}: leave out "
            f"{', '.join(fixed)} ({MAY_BE_GIVEN_AGAIN})."
        )
    begun = _without_storage(_begun(given["output"]))
    stored = {key: value for key, value in begun.items() if key not in given}
    if not {"model", "data"} <= stored.keys():
        raise UsageError(
            f"the run in {given['output']!r} was begun from Python: resume it there, with "
            "autoprune.search(…, resume=True)."
        )
    return agreed(Path(given["output"]), stored, trusts, "if you trust it, give --trust")


def _begun(path: str) -> dict[str, Any]:
    """Return the options that a run, or a sweep, goes on with."""
    from autoprune.study.sweep_directory import SweepDirectory

    sweep = SweepDirectory(path)
    if not sweep.is_begun:
        return stored_options(path)
    record = sweep.load()
    stored = {key: value for key, value in record.settings.items() if key not in REMARKS}
    return read_values({**stored, "sweep": record.sweep}, f"{str(sweep.record_path)!r}: ")


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
