"""How a run begins: a new one is written down, a resumed one must be continued as it was begun."""

from __future__ import annotations

import logging
import math
import platform
import secrets
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import scipy
import torch

from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.ray_cluster import with_workers
from autoprune.engine.trust import trust
from autoprune.errors import RunError, UsageError, counted, shown, spelt
from autoprune.options.search import OPTIONS, RENEWABLE, SearchConfig
from autoprune.options.storage_url import absolute_storage
from autoprune.options.stored import (
    ORIGIN,
    REMARKS,
    SETTINGS,
    in_todays_words,
    is_outdated,
    stored_settings,
)
from autoprune.recovery.length import Length
from autoprune.study.result import limits_of
from autoprune.study.run_directory import RunDirectory
from autoprune.version import __version__

# What the options of a run meant that is of an older version (`options.stored.is_outdated`).
OUTDATED = (
    "by a version that trained frozen weights, train_frozen=True today, and whose exclude is "
    "exclude_outputs today"
)

LIMITS = ("trials", "time", "recover")
"""Options that a finished search goes on with if they are raised."""

log = logging.getLogger(__name__)


def begin_run(run: RunDirectory, named: Mapping[str, Any]) -> None:
    """Make sure that a new run can be written, and that it may name again what the caller names.

    Args:
        run: the run directory.
        named: the settings; what is given as an object has no name.

    Raises:
        RunError: another process has finished a run there since it was asked first.
    """
    run.check_free()
    _remember(run, named)


def resume_run(
    run: RunDirectory, settings: Mapping[str, Any], config: SearchConfig
) -> dict[str, Any]:
    """Return the settings that a run was begun with.

    It may name again what the caller gives again, such as a Ray cluster. An older version wrote
    fewer options down: those do what they do by default.

    Raises:
        RunError: there is no run.
        UsageError: it was begun with other options.
    """
    stored = stored_settings(run)
    _check_known(run, stored, settings)
    usual = with_workers(SearchConfig(config.budget), None)
    defaults = {**usual.to_mapping(), "device": settings["device"]}
    begun = {**defaults, **in_todays_words(stored)}
    older = f" ({OUTDATED})" if is_outdated(stored) else ""
    again = f"begin another run there, with {spelt('warm_from', str(run.path))}."
    check_storage(run.path, begun, settings, again)
    for key in sorted((settings.keys() | begun.keys()) - {*RENEWABLE, *REMARKS}):
        if begun.get(key) != settings.get(key):
            raise UsageError(
                f"cannot resume {str(run.path)!r} with {key}={shown(settings.get(key))}: it was "
                f"begun with {shown(begun.get(key))}{older}."
            )
    if older:
        log.info("%s goes on as it was begun%s", run.path, older)
    _remember(run, _renewed(settings))
    return begun


def check_storage(
    place: Path, begun: Mapping[str, Any], settings: Mapping[str, Any], again: str
) -> None:
    """Refuse to go on with another storage than the one that a run or a sweep was begun with.

    Args:
        place: its directory.
        begun: the settings that it was begun with.
        settings: those that it is to go on with.
        again: what to do where its trials are not in a storage.

    Raises:
        UsageError: there is another one, or none.
    """
    url, named = begun.get("storage"), settings.get("storage")
    if named is not None and url is None:
        raise UsageError(
            f"cannot resume {str(place)!r} with a storage: it was begun without one; {again}"
        )
    if (url and absolute_storage(url)) != named:
        raise UsageError(
            f"cannot resume {str(place)!r} without the storage that it was begun with: a study "
            f"elsewhere is only opened where you name it, with {spelt('storage', url)}."
        )


def _remember(run: RunDirectory, named: Mapping[str, Any]) -> None:
    """Let a run name again what the caller names."""
    if (failure := trust(run.path, named)) is not None:
        log.info("%s", failure)


def _renewed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a resumed run takes from its caller."""
    return {key: settings[key] for key in RENEWABLE if key in settings}


def at_once_of(stored: Mapping[str, Any]) -> int:
    """Return how many candidates were on their way at once in a run, by its settings.

    Raises:
        UsageError: the number is of the wrong type.
    """
    at_once: int = OPTIONS["at_once"].read(in_todays_words(stored).get("at_once", 1))
    return at_once


def _check_known(run: RunDirectory, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a run with options that this version does not have."""
    known = {*settings, *ORIGIN, *REMARKS, *(option.name for option in fields(SearchConfig))}
    if unknown := sorted(stored.keys() - known):
        option = f"{unknown[0]}={shown(stored[unknown[0]])}"
        raise UsageError(
            f"cannot resume {str(run.path)!r}: it was begun by autoprune "
            f"{stored.get('autoprune')!r} with {option}, an option that version "
            f"{__version__!r} does not have."
        )


def is_complete(run: RunDirectory, config: SearchConfig) -> bool:
    """Return, and say, whether a run has reached the limits under which it is to go on.

    Raises:
        RunError: its result is damaged.
    """
    if not run.is_finished or asks_for_more(run, config):
        return False
    limits, done = limits_of(run)
    log.warning(
        "the search in %r is finished (%s): raise %s, %s or %s to go on",
        str(run.path),
        counted(done or limits.trials, "trial"),
        *map(spelt, LIMITS),
    )
    return True


def asks_for_more(run: RunDirectory, config: SearchConfig) -> bool:
    """Return whether options raise the limits that a finished search had.

    Raises:
        RunError: its result is damaged.
    """
    limits, _ = limits_of(run)
    longest = limits.time or math.inf
    try:
        had = Length.read(limits.recover or 0.0)
    except ValueError:
        raise RunError(
            f"{str(run.result_path)!r} was altered: recover is {shown(limits.recover)} there."
        ) from None
    wanted = Length.read(config.recover or 0.0)
    is_longer = (config.time or math.inf) > longest or wanted.exceeds(had)
    return (config.trials or 0) > limits.trials or is_longer


def choices_of(evaluators: Evaluators) -> dict[str, Any]:
    """Return what a resumed search does not choose again, whatever memory is free by then."""
    return {
        "judge": evaluators.search_repair.value,
        "repair_samples": len(evaluators.builder.repair.samples),
    }


def choices_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return as much of that as settings say.

    Raises:
        UsageError: a value is of the wrong type.
    """
    known = settings.keys() & {"judge", "repair_samples"}
    return {key: SETTINGS[key].read(settings[key]) for key in sorted(known)}


def own_settings(
    context: SearchContext, settings: Mapping[str, Any], evaluators: Evaluators
) -> dict[str, Any]:
    """Return the settings of a new run, or of a resumed one that may renew some of them."""
    chosen = choices_of(evaluators)
    if context.begun:
        return {**context.begun, **_renewed(settings), **chosen}
    return {**settings, "versions": versions(), **chosen}


def write_settings(
    context: SearchContext, settings: Mapping[str, Any], evaluators: Evaluators
) -> None:
    """Write `config.toml`, and beside it the dense network if it was trained by another run."""
    own = own_settings(context, settings, evaluators)
    if context.config.storage is not None and not context.begun:
        own["process"] = secrets.token_hex(6)
    (context.run.save_config if context.begun else context.run.create)(own)
    if own.get("from_training") is not None:
        context.run.method.save_weights(context.model)


def versions() -> dict[str, str]:
    """Return the versions of what a search computes with."""
    return {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, np, scipy, optuna)},
    }
