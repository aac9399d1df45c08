"""A trial as Optuna has it: widths, kind and measurement are user attributes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.policy import Widths
from autoprune.core.records import Choice, Finite, Message, Text, read
from autoprune.errors import AutopruneError, RunError, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.study.trial import Candidate, Kind, Trial

FIRST_ROUND = "1"
_OTHERS = " (the other files of the run are read without it)"


class TrialAttributes(msgspec.Struct, frozen=True):
    """User attributes of a trial in the study; later versions may add some.

    Attributes:
        widths, kind: of the candidate.
        error: why it failed; None if it did not, or is not finished.
        round: in which it was evaluated.
        measurement: None if the evaluation failed.
        process: who evaluated it; None where only one process searches.
    """

    widths: Widths
    kind: Choice[Kind]
    error: Message | None = None
    round: Text = FIRST_ROUND
    measurement: Measurement | None = None
    process: Text | None = None


@contextmanager
def told(what: str, storage: str, hint: str = _OTHERS) -> Iterator[None]:
    """Say in one line what cannot be done to a study, and what may help."""
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:  # any database driver's own error types
        cause = error.__cause__ if isinstance(error, StorageInternalError) else None
        reason = first_line(cause or error)
        raise RunError(f"cannot {what} study {storage!r}: {reason}{hint}") from error


def parsed(frozen: FrozenTrial) -> tuple[Trial, TrialAttributes]:
    """Return the trial that Optuna recorded, and its attributes.

    Raises:
        RunError: it is damaged.
    """
    try:
        found = read(frozen.user_attrs, TrialAttributes)
        value = read(frozen.value, Finite) if frozen.state == TrialState.COMPLETE else None
    except ValueError as error:
        raise RunError(f"trial {frozen.number} of the study is damaged: {error}.") from error
    candidate = Candidate(found.widths, found.kind)
    return Trial(candidate, value, found.measurement, found.error), found


def is_recorded(frozen: FrozenTrial) -> bool:
    """Return whether a trial has an outcome: failures without a reason are of dead processes."""
    if frozen.state == TrialState.FAIL:
        return frozen.user_attrs.get("error") is not None
    return frozen.state == TrialState.COMPLETE


def copy_recorded(
    study: optuna.Study, storage: str | optuna.storages.BaseStorage, name: str
) -> None:
    """Copy what autoprune writes into a study, and nothing else, into one of another name."""
    copy = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    for key, value in study.user_attrs.items():
        copy.set_user_attr(key, value)
    recorded = [one for one in study.get_trials(deepcopy=False) if is_recorded(one)]
    copy.add_trials(
        [
            optuna.create_trial(
                state=one.state,
                value=one.value if one.state == TrialState.COMPLETE else None,
                params=one.params,
                distributions=one.distributions,
                user_attrs=one.user_attrs,
            )
            for one in recorded
        ]
    )
