"""The record of a search: an Optuna study in which every evaluated candidate is a trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.policy import Widths
from autoprune.core.records import Natural, Quantity, Table, plain, read
from autoprune.errors import RunError
from autoprune.evaluation.measurement import Measurement
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.optuna_view import GroupView
from autoprune.study.stored_trials import FIRST_ROUND, TrialAttributes, copy_recorded, parsed, told
from autoprune.study.trial import Candidate, Trial

STUDY_NAME = "autoprune"
# Failed trials in a row that end a search: by then it is not the candidate that is wrong.
MOST_FAILURES = 5
# Of trials that another search made.
TAKEN_OVER = "taken over"

Value = TypeVar("Value")


class Unanswered(Exception):
    """Another process is evaluating a candidate, and there is no time to wait for it."""


class Ledger:
    """Trials in the order of their evaluation, in any Optuna storage.

    Each trial's parameters are the keep ratios, its value the reward; widths, kind and measurement
    are user attributes, so that Optuna's dashboard shows them.

    A search may go on in rounds, each under bounds of its own: every trial belongs to the round in
    which it was evaluated, and is known to all.

    Attributes:
        failures: trials in a row that failed last, of those that were made here.
        owner: who records trials here; None where only one process searches.
    """

    owner: str | None = None

    def __init__(self, space: SearchSpace, storage: str) -> None:
        """Open the study, or make it.

        Raises:
            RunError: the storage cannot be opened or holds another search.
        """
        self._space = space
        self._view = GroupView(space)
        self._storage = storage
        with self._told("open"):
            self._study = self._opened()
            if self._study.directions != [StudyDirection.MAXIMIZE]:
                raise ValueError("it does not maximise one value")
            restored = self._finished()
        self._sessions = self.remarked(self.own_key("sessions"), tuple[Table[Quantity], ...]) or ()
        self._trials: dict[Widths, Trial] = {}
        self._of: dict[Widths, TrialAttributes] = {}
        self.failures = 0
        for trial, attributes in self._not_fatal(map(self._restore, restored)):
            self._remember(trial, attributes)
            if attributes.process == self.owner:
                self._count(trial)
        self._round = FIRST_ROUND

    def _opened(self) -> optuna.Study:
        """Open or make the study."""
        return optuna.create_study(
            storage=self._storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True
        )

    def _finished(self) -> Sequence[FrozenTrial]:
        """Return the trials that are recorded and were not seen yet."""
        return self._study.get_trials(deepcopy=False)

    def own_key(self, key: str) -> str:
        """Return the key under which the study says something of this search alone."""
        return key

    @property
    def seed_offset(self) -> int:
        """Added to the seed: processes that search together would propose the same."""
        return 0

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def begin_round(self, name: str, trials: int) -> int:
        """Let all new trials belong to a round; return the number that was planned at its start.

        A strategy plans with this number, so that a resumed search proposes what it did before.
        """
        self._round = name
        key = self.own_key("plans")
        plans = {name: trials, **(self.remarked(key, Table[Natural]) or {})}
        self.remark(key, plans)
        return plans[name]

    @property
    def of_round(self) -> list[Trial]:
        """The trials of the round that was begun last."""
        return [
            trial for widths, trial in self._trials.items() if self._of[widths].round == self._round
        ]

    @property
    def own_of_round(self) -> list[Trial]:
        """Those of them that were evaluated here: what a search replays."""
        return [t for t in self.of_round if self._of[t.candidate.widths].process == self.owner]

    @property
    def of_others(self) -> int:
        """How many of the round's trials other processes made, or are making."""
        return 0

    def claim(self, candidate: Candidate) -> bool:
        """Return whether a candidate is to be evaluated here: it is not known, nor begun."""
        return self.find(candidate.widths) is None

    def answer(self, widths: Widths, deadline: float = math.inf) -> Trial | None:
        """Return the trial of these widths, made here or elsewhere; None if nobody makes it.

        Raises:
            Unanswered: another process is making it, and the deadline, in `time.monotonic`
                seconds, is over.
        """
        return self.find(widths)

    def deaths(self, widths: Widths) -> int:
        """How many other processes began these widths and died."""
        return 0

    def waits(self) -> bool:
        """Wait a moment if other processes are evaluating candidates; return whether they are."""
        return False

    def close(self) -> None:
        """Let other processes have what was begun here and will not be finished."""

    @property
    def made(self) -> list[Trial]:
        """The trials that this search evaluated, in all its rounds."""
        return [t for widths, t in self._trials.items() if self._of[widths].round != TAKEN_OVER]

    @property
    def made_here(self) -> list[Trial]:
        """Those of them that this process evaluated, or the search that it resumes."""
        return [t for t in self.made if self._of[t.candidate.widths].process == self.owner]

    @property
    def taken_over(self) -> list[Trial]:
        """The candidates that another search evaluated, best first."""
        known = [t for widths, t in self._trials.items() if self._of[widths].round == TAKEN_OVER]
        able = [t for t in known if t.value is not None and t.candidate.kind == "candidate"]
        return sorted(able, key=lambda trial: -(trial.value or 0.0))

    def take_over(self, trials: Iterable[Trial]) -> None:
        """Record the trials of another search as those of an earlier round."""
        own, self._round = self._round, TAKEN_OVER
        for trial in trials:
            if self.claim(trial.candidate):
                self.record(trial)
        self._round = own

    def find(self, widths: Widths) -> Trial | None:
        """Return the trial of these widths, None if there is none yet."""
        return self._trials.get(widths)

    def record(self, trial: Trial) -> None:
        """Write a trial; it is on disk when this returns."""
        attributes = self._attributes(trial)
        with self._told("write to"):
            self._write(trial, attributes)
        self._remember(trial, attributes)
        self._count(trial)

    def _write(self, trial: Trial, attributes: TrialAttributes) -> None:
        state = TrialState.FAIL if trial.value is None else TrialState.COMPLETE
        self._study.add_trial(self._frozen(state, trial.value, attributes))

    def _attributes(self, trial: Trial) -> TrialAttributes:
        own, measured = trial.candidate, trial.measurement
        return TrialAttributes(own.widths, own.kind, trial.error, self._round, measured, self.owner)

    def _frozen(
        self, state: TrialState, value: float | None, attributes: TrialAttributes
    ) -> FrozenTrial:
        """Return a trial as Optuna has it."""
        said = plain(attributes)
        unsaid = {key for key in ("measurement", "process") if said[key] is None}
        return optuna.create_trial(
            state=state,
            value=value,
            params=self._view.parameters(attributes.widths),
            distributions=dict(self._view.distributions),
            user_attrs={key: one for key, one in said.items() if key not in unsaid},
        )

    def _remember(self, trial: Trial, attributes: TrialAttributes) -> None:
        self._trials[trial.candidate.widths] = trial
        self._of.setdefault(trial.candidate.widths, attributes)

    def _count(self, trial: Trial) -> None:
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
        rounds = list(dict.fromkeys([*(one.round for one in self._of.values()), self._round]))
        later = set(rounds[rounds.index(self._round) + 1 :]) - {TAKEN_OVER}
        return (t for widths, t in self._trials.items() if self._of[widths].round not in later)

    @property
    def spent(self) -> dict[str, float]:
        """What the sessions before this one took, summed: seconds by stage, and counts."""
        stages = {stage for session in self._sessions for stage in session}
        return {stage: sum(s.get(stage, 0.0) for s in self._sessions) for stage in stages}

    def keep_session(self, took: Mapping[str, float]) -> None:
        """Write down what this session took so far."""
        self.remark(self.own_key("sessions"), [*self._sessions, dict(took)])

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

    def copy_to(self, storage: str) -> None:
        """Write all that is recorded into a storage that is empty.

        Raises:
            RunError: it cannot be written.
        """
        with told("write", storage):
            copy_recorded(self._study, storage, STUDY_NAME)

    def _told(self, what: str) -> AbstractContextManager[None]:
        return told(what, self._storage)

    def _restore(self, frozen: FrozenTrial) -> tuple[Trial, TrialAttributes]:
        trial, attributes = parsed(frozen)
        widths, measurement = trial.candidate.widths, trial.measurement
        fits = self._space.contains(widths) and frozen.distributions == self._view.distributions
        if not fits or (measurement and not self._is_of(measurement, widths)):
            raise RunError(
                "the study holds trials of another network or other options; "
                "resume with the run's own, or choose another output directory."
            )
        return trial, attributes

    def _not_fatal(
        self, found: Iterable[tuple[Trial, TrialAttributes]]
    ) -> Iterator[tuple[Trial, TrialAttributes]]:
        """Leave out failures that ended this search: it is resumed with their cause mended."""
        pairs = list(found)
        own = [place for place, (_, one) in enumerate(pairs) if one.process == self.owner]
        fatal: set[int] = set()
        for has_failed, row in itertools.groupby(own, lambda i: pairs[i][0].value is None):
            together = list(row)
            if has_failed and len(together) >= MOST_FAILURES:
                fatal.update(together)
        return (pair for place, pair in enumerate(pairs) if place not in fatal)

    def _is_of(self, measurement: Measurement, widths: Widths) -> bool:
        return (measurement.widths, measurement.names) == (widths, self._space.names)


def read_trials(storage: str) -> tuple[Trial, ...]:
    """Return the trials of a study as `read_study` does."""
    return read_study(storage)[0]


def read_study(storage: str) -> tuple[tuple[Trial, ...], Mapping[str, Any]]:
    """Return the trials of a study and what else it says, without writing to it.

    There is one trial of the same widths: the last one, in the place of the first.

    Raises:
        RunError: it cannot be opened, or is damaged.
    """
    with told("read", storage):
        study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
        found, attributes = study.get_trials(deepcopy=False), study.user_attrs
    trials = (parsed(frozen)[0] for frozen in found)
    return tuple({trial.candidate.widths: trial for trial in trials}.values()), attributes


def copy_study(source: str, storage: optuna.storages.BaseStorage) -> None:
    """Copy a study, whose trials are checked, into a storage that is empty.

    Raises:
        RunError: it cannot be opened, or is damaged.
    """
    read_trials(source)
    with told("read", source):
        study = optuna.load_study(study_name=STUDY_NAME, storage=source)
        copy_recorded(study, storage, STUDY_NAME)
