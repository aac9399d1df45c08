"""The record of a search: an Optuna study in which every evaluated candidate is a trial."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import msgspec
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.policy import Widths
from autoprune.core.records import (
    Choice,
    Finite,
    Message,
    Natural,
    Quantity,
    Table,
    Text,
    plain,
    read,
)
from autoprune.errors import RunError, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.optuna_view import GroupView
from autoprune.study.trial import Candidate, Kind, Trial

STUDY_NAME = "autoprune"
# Failed trials in a row that end a search: by then it is not the candidate that is wrong.
MOST_FAILURES = 5
FIRST_ROUND = "1"

Value = TypeVar("Value")


class _Attributes(msgspec.Struct, frozen=True):
    """User attributes of a trial in the study; later versions may add some."""

    widths: Widths
    kind: Choice[Kind]
    error: Message | None = None
    round: Text = FIRST_ROUND
    measurement: Measurement | None = None


class Ledger:
    """Trials in the order of their evaluation, in any Optuna storage.

    Each trial's parameters are the keep ratios, its value the reward; widths, kind and measurement
    are user attributes, so that Optuna's dashboard shows them.

    A search may go on in rounds, each under bounds of its own: every trial belongs to the round in
    which it was evaluated, and is known to all.

    Attributes:
        failures: trials in a row that failed last.
    """

    def __init__(self, space: SearchSpace, storage: str) -> None:
        """Open the study, or make it.

        Raises:
            RunError: the storage cannot be opened or holds another search.
        """
        self._space = space
        self._view = GroupView(space)
        self._storage = storage
        with self._told("open"):
            self._study = optuna.create_study(
                storage=storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True
            )
            if self._study.directions != [StudyDirection.MAXIMIZE]:
                raise ValueError("it does not maximise one value")
            restored = self._study.get_trials(deepcopy=False)
        self._sessions = self.remarked("sessions", tuple[Table[Quantity], ...]) or ()
        self._trials: dict[Widths, Trial] = {}
        self._rounds: dict[Widths, str] = {}
        self.failures = 0
        for trial, round_ in _not_fatal(map(self._restore, restored)):
            self._remember(trial, round_)
        self._round = FIRST_ROUND

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def begin_round(self, name: str, trials: int) -> int:
        """Let all new trials belong to a round; return the number that was planned at its start.

        A strategy plans with this number, so that a resumed search proposes what it did before.
        """
        self._round = name
        plans = {name: trials, **(self.remarked("plans", Table[Natural]) or {})}
        self.remark("plans", plans)
        return plans[name]

    @property
    def of_round(self) -> list[Trial]:
        """The trials of the round that was begun last."""
        return [
            trial for widths, trial in self._trials.items() if self._rounds[widths] == self._round
        ]

    def find(self, widths: Widths) -> Trial | None:
        """Return the trial of these widths, None if there is none yet."""
        return self._trials.get(widths)

    def record(self, trial: Trial) -> None:
        """Write a trial; it is on disk when this returns."""
        widths, kind = trial.candidate.widths, trial.candidate.kind
        attributes = plain(_Attributes(widths, kind, trial.error, self._round, trial.measurement))
        if trial.measurement is None:
            del attributes["measurement"]
        frozen = optuna.create_trial(
            state=TrialState.FAIL if trial.value is None else TrialState.COMPLETE,
            value=trial.value,
            params=self._view.parameters(widths),
            distributions=dict(self._view.distributions),
            user_attrs=attributes,
        )
        with self._told("write to"):
            self._study.add_trial(frozen)
        self._remember(trial, self._round)

    def _remember(self, trial: Trial, round_: str) -> None:
        self._trials[trial.candidate.widths] = trial
        self._rounds.setdefault(trial.candidate.widths, round_)
        self.failures = self.failures + 1 if trial.value is None else 0

    def best(self, count: int, fits: Callable[[Widths], bool] = lambda widths: True) -> list[Trial]:
        """Return the candidates of highest value among those that fit, best first.

        Probes never win, nor do trials of rounds after this one: a resumed round ends as it did.
        """
        able = [
            t for t in self._so_far() if t.value is not None and t.candidate.kind == "candidate"
        ]
        ranked = sorted(able, key=lambda t: -(t.value or 0.0))
        return list(itertools.islice((t for t in ranked if fits(t.candidate.widths)), count))

    def _so_far(self) -> Iterator[Trial]:
        rounds = list(dict.fromkeys([*self._rounds.values(), self._round]))
        later = set(rounds[rounds.index(self._round) + 1 :])
        return (
            trial for widths, trial in self._trials.items() if self._rounds[widths] not in later
        )

    @property
    def spent(self) -> dict[str, float]:
        """What the sessions before this one took, summed: seconds by stage, and counts."""
        stages = {stage for session in self._sessions for stage in session}
        return {stage: sum(s.get(stage, 0.0) for s in self._sessions) for stage in stages}

    def keep_session(self, took: Mapping[str, float]) -> None:
        """Write down what this session took so far."""
        self.remark("sessions", [*self._sessions, dict(took)])

    def remark(self, key: str, value: Any) -> None:
        """Write down something about the search, as JSON; it replaces what was there."""
        with self._told("write to"):
            self._study.set_user_attr(key, value)

    def remarked(self, key: str, kind: type[Value]) -> Value | None:
        """Return what was written down, as a type; None if nothing was.

        Raises:
            RunError: it cannot be read.
        """
        with self._told("read"):
            found = self._study.user_attrs.get(key)
        try:
            return None if found is None else read(found, kind)
        except ValueError as error:
            raise RunError(f"what the study says of {key!r} is damaged: {error}.") from error

    def _told(self, what: str) -> AbstractContextManager[None]:
        return _told(what, self._storage)

    def _restore(self, frozen: FrozenTrial) -> tuple[Trial, str]:
        trial, round_ = _parsed(frozen)
        widths, measurement = trial.candidate.widths, trial.measurement
        fits = self._space.contains(widths) and frozen.distributions == self._view.distributions
        if not fits or (measurement and not self._is_of(measurement, widths)):
            raise RunError(
                "the study holds trials of another network or other options; "
                "resume with the run's own, or choose another output directory."
            )
        return trial, round_

    def _is_of(self, measurement: Measurement, widths: Widths) -> bool:
        return (measurement.widths, measurement.names) == (widths, self._space.names)


def read_trials(storage: str) -> tuple[Trial, ...]:
    """Return the trials of a study in the order of their evaluation, without writing to it.

    Raises:
        RunError: it cannot be opened, or is damaged.
    """
    with _told("read", storage):
        study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
        found = study.get_trials(deepcopy=False)
    return tuple(_parsed(frozen)[0] for frozen in found)


@contextmanager
def _told(what: str, storage: str) -> Iterator[None]:
    """Say in one line what cannot be done to a study."""
    try:
        yield
    except Exception as error:  # any database driver's own error types
        raise RunError(
            f"cannot {what} study {storage!r}: {first_line(error)} (the other files of "
            "the run are read without it)"
        ) from error


def _parsed(frozen: FrozenTrial) -> tuple[Trial, str]:
    """Return the trial that Optuna recorded, and its round.

    Raises:
        RunError: it is damaged.
    """
    try:
        found = read(frozen.user_attrs, _Attributes)
        value = read(frozen.value, Finite) if frozen.state == TrialState.COMPLETE else None
    except ValueError as error:
        raise RunError(f"trial {frozen.number} of the study is damaged: {error}.") from error
    candidate = Candidate(found.widths, found.kind)
    return Trial(candidate, value, found.measurement, found.error), found.round


def _not_fatal(trials: Iterable[tuple[Trial, str]]) -> Iterator[tuple[Trial, str]]:
    """Leave out failures that ended a search: it is resumed with their cause mended."""
    for has_failed, row in itertools.groupby(trials, lambda pair: pair[0].value is None):
        together = list(row)
        if not has_failed or len(together) < MOST_FAILURES:
            yield from together
