"""A search that begins with the trials of another search of the same problem (`--warm-from`).

They are recorded as an earlier round: strategies that begin with what is known are answered from
the record, nothing is evaluated again, and the best of them are among the finalists.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from autoprune.core.records import read
from autoprune.engine.context import SearchContext
from autoprune.engine.fingerprint import KEY, Fingerprint, other_option
from autoprune.engine.problem import PruningProblem
from autoprune.errors import RewardError, RunError, UsageError, counted
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import on_the_scale_of
from autoprune.options.stored import stored_settings
from autoprune.study.ledger import Ledger, read_study
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Trial

# Two computations of one figure, perhaps by other versions of a library, are as near as that.
_NEAR = 1e-6
_TAKEN = "warm_from"

log = logging.getLogger(__name__)


def check_warm_start(run: str, settings: Mapping[str, Any]) -> None:
    """Refuse a run of other options before any work is done.

    Args:
        run: the run whose trials are wanted.
        settings: of the search that is to begin with them, as `config.toml` would have them.

    Raises:
        RunError: there is no run, or no study in it.
        UsageError: its measurements were made with other options.
    """
    other = RunDirectory(run)
    if (found := other_option(settings, stored_settings(other))) is not None:
        raise UsageError(f"cannot begin with the trials of {run!r}: {found}.")
    if not other.has_study:
        raise RunError(f"cannot begin with the trials of {run!r}: study.db {other.missing_study}.")


def take_over(
    context: SearchContext, problem: PruningProblem, ledger: Ledger, settings: Mapping[str, Any]
) -> None:
    """Record the trials of the run that is to be begun with, unless that was done before.

    Args:
        context: of the search.
        problem: of the search.
        ledger: of the search.
        settings: what `config.toml` says of it.

    Raises:
        RunError: they are of another network, other data or other options.
    """
    place, taken = context.config.warm_from, ledger.own_key(_TAKEN)
    if place is None or ledger.remarked(taken, str) is not None:
        return
    check_warm_start(place, settings)
    with RunDirectory(place).stored_study() as study:
        trials, attributes = read_study(study)
    _check_same(place, Fingerprint.of(context), attributes.get(KEY))
    able = [t for t in trials if t.value is not None and t.measurement is not None]
    new = [t for t in able if ledger.find(t.candidate.widths) is None]
    for trial in new:
        _check_trial(place, trial, problem, context)
    ledger.take_over(new)
    ledger.remark(taken, place)
    log.info("begins with %s of %s", counted(len(new), "trial"), place)


def _check_same(place: str, own: Fingerprint, theirs: Any) -> None:
    if not isinstance(theirs, dict):
        raise RunError(
            f"cannot begin with the trials of {place!r}: an older version made them, which did not "
            "write down of which network and data they are; search there again."
        )
    try:
        known = read(theirs, Fingerprint)
    except ValueError as error:
        raise RunError(f"the fingerprint in the study of {place!r} is damaged: {error}.") from error
    if (what := own.differs_in(known)) is not None:
        raise RunError(f"cannot begin with the trials of {place!r}: they are of another {what}.")


def _check_trial(place: str, trial: Trial, problem: PruningProblem, context: SearchContext) -> None:
    """Refuse a trial whose widths, costs or reward are not what they would be here."""
    found, widths = trial.measurement, trial.candidate.widths
    assert found is not None and trial.value is not None
    of_another = f"cannot begin with the trials of {place!r}: they are of another"
    if found.names != problem.space.names or not problem.space.contains(widths):
        raise RunError(f"{of_another} search space.")
    for name, cost in problem.costs.items():
        own, theirs = cost.total(widths), found.costs.get(name)
        if theirs is None or not _is_near(own, theirs):
            raise RunError(
                f"{of_another} {name}: {theirs} for a candidate that costs {own:.6g} here."
            )
    if not _is_near(_reward(context, found), trial.value):
        raise RunError(f"{of_another} reward than {context.reward.name!r}.")


def _reward(context: SearchContext, found: Measurement) -> float:
    try:
        return on_the_scale_of(context.reward, [found])(found)
    except RewardError:
        return math.nan


def _is_near(own: float, theirs: float) -> bool:
    return math.isclose(own, theirs, rel_tol=_NEAR, abs_tol=1e-12)
