"""The record of a search that several processes make together, in one Optuna storage.

A candidate is evaluated by one of them: before it begins, a process adds a running trial with the
candidate's widths, and whose trial of these widths has the lowest number evaluates it. The others
wait for what comes of it. Optuna's heartbeat says whether a process is alive: the running trials of
one that died are failed, and whoever asks for the candidate next evaluates it.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

import msgspec
import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import (
    BaseStorage,
    JournalStorage,
    RDBStorage,
    fail_stale_trials,
    get_storage,
)
from optuna.storages._heartbeat import (  # there is no other way to it but Study.optimize
    BaseHeartbeat,
    BaseHeartbeatThread,
    get_heartbeat_thread,
    is_heartbeat_enabled,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError

from autoprune.core.policy import Widths
from autoprune.core.records import Extent, read
from autoprune.errors import RunError, UsageError
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.ledger import Ledger, Unanswered
from autoprune.study.stored_trials import TrialAttributes, is_recorded, parsed, told
from autoprune.study.trial import Candidate, Trial

JOURNAL = "journal://"
_INSTALL = {"psycopg2": "autoprune[postgres]", "MySQLdb": "mysqlclient"}
# SQLAlchemy's own choice of a driver depends on its version.
_DRIVER = ("postgresql://", "postgresql+psycopg2://")
# Seconds between two looks at what another process is evaluating.
_LOOK = 0.2
# Where a study says `_Signs`.
_SIGNS = "signs of life"
# Says of a running trial that its process gave a first sign of life.
_BEATS = "beats"
# Says of a failed one that its process left it to others: it did not die at it.
_LET_GO = "let go"
# Times that a database is tried to be opened.
_ATTEMPTS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedStudy:
    """Where a study lies, and who works on it here.

    Attributes:
        url: of the storage, `journal://PATH` or as SQLAlchemy takes it.
        name: of the study: that of everybody who searches the same problem.
        owner: name of this search, and of nobody else's; a resumed search has the same.
        heartbeat: seconds between two signs of life.
        patience: signs that may be missing before a process counts as dead. Where a storage knows
            no heartbeats, as many minutes after which a candidate is evaluated again.
    """

    url: str
    name: str
    owner: str
    heartbeat: int = 20
    patience: int = 3

    def storage(self) -> BaseStorage:
        """Open the storage.

        Raises:
            UsageError: the driver of the database is not installed.
        """
        if self.url.startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(self.url.removeprefix(JOURNAL)))
        try:
            return get_storage(self._database())
        except ImportError as error:
            cause = error.__cause__ or error
            module = getattr(cause, "name", None) or "its driver"
            raise UsageError(
                f"the storage {self.url!r} needs a package that is not installed: pip install "
                f"{_INSTALL.get(module, module)!r}."
            ) from error

    def _database(self) -> RDBStorage:
        """Open a database; its tables are made if nobody else makes them at the same moment."""
        for attempt in range(_ATTEMPTS):
            try:
                with _without_warnings():
                    return RDBStorage(
                        self.url.replace(*_DRIVER, 1),
                        {"pool_pre_ping": True},  # servers drop connections that are idle
                        heartbeat_interval=self.heartbeat,
                        grace_period=self.patience * self.heartbeat,
                    )
            except DBAPIError:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(_LOOK)
        raise AssertionError


class _Signs(msgspec.Struct, frozen=True):
    """How the processes of a study show that they live: as the first of them did."""

    heartbeat: Extent
    patience: Extent


class SharedLedger(Ledger):
    """Trials of all processes that search one study."""

    def __init__(self, space: SearchSpace, shared: SharedStudy) -> None:
        """Join the study, or make it.

        Raises:
            RunError: the storage cannot be opened, or the study is of another search.
            UsageError: the driver of the database is not installed.
        """
        self._shared, self.owner = shared, shared.owner
        self._seen: set[int] = set()
        self._claims: dict[Widths, tuple[int, BaseHeartbeatThread]] = {}
        super().__init__(space, shared.url)

    def _opened(self) -> optuna.Study:
        study, own = self._joined(), self._shared
        said = study.user_attrs.get(_SIGNS)
        if said is None:
            study.set_user_attr(_SIGNS, {"heartbeat": own.heartbeat, "patience": own.patience})
            return study
        signs = read(said, _Signs)
        if (own.heartbeat, own.patience) == (signs.heartbeat, signs.patience):
            return study
        log.warning(
            "the study's processes give a sign of life every %d s, of which %d may be missing: so "
            "does this one, whatever [engine.storage] says",
            signs.heartbeat,
            signs.patience,
        )
        self._shared = replace(own, heartbeat=signs.heartbeat, patience=signs.patience)
        return self._joined()

    def _joined(self) -> optuna.Study:
        self._optuna = self._shared.storage()
        return optuna.create_study(
            storage=self._optuna,
            study_name=self._shared.name,
            direction="maximize",
            load_if_exists=True,
        )

    def _told(self, what: str) -> AbstractContextManager[None]:
        return told(what, self._storage, "; is the database there, and may you use it?")

    def _finished(self) -> Sequence[FrozenTrial]:
        found = [t for t in self._study.get_trials(deepcopy=False) if is_recorded(t)]
        new = [trial for trial in found if trial.number not in self._seen]
        self._seen |= {trial.number for trial in new}
        return new

    def own_key(self, key: str) -> str:
        """Return the key with the owner: others never write what is kept there."""
        return f"{key} of {self.owner}"

    @property
    def seed_offset(self) -> int:
        """A number of the owner; processes that join at once need not agree on theirs."""
        digest = hashlib.sha256(self._shared.owner.encode()).digest()
        return int.from_bytes(digest[:3], "big")

    def find(self, widths: Widths) -> Trial | None:
        """Return the trial of these widths, whoever made it; None if there is none yet."""
        self._look()
        return super().find(widths)

    def best(self, count: int, fits: Callable[[Widths], bool] = lambda widths: True) -> list[Trial]:
        """Return the best candidates of all processes so far, as `Ledger.best` does."""
        self._look()
        return super().best(count, fits)

    def _look(self) -> None:
        """Learn what other processes recorded."""
        with self._told("read"):
            new = self._finished()
        for trial, attributes in map(self._restore, new):
            self._remember(trial, attributes)

    @property
    def of_others(self) -> int:
        """How many of the round's trials other processes made, or are making."""
        own = {trial.candidate.widths for trial in self.own_of_round} | self._claims.keys()
        running = {one.widths for _, one in self._running() if one.round == self._round}
        return len(({trial.candidate.widths for trial in self.of_round} | running) - own)

    def claim(self, candidate: Candidate) -> bool:
        """Begin a running trial of a candidate; return False if another process was earlier."""
        widths = candidate.widths
        if self.find(widths) is not None or self._is_begun(widths):
            return False
        attributes = self._attributes(Trial(candidate, None))
        begun = self._frozen(TrialState.RUNNING, None, attributes)
        with self._told("write to"):
            study = self._optuna.get_study_id_from_name(self._shared.name)
            trial = self._optuna.create_new_trial(study, template_trial=begun)
            beating = get_heartbeat_thread(trial, self._optuna)
            if is_heartbeat_enabled(self._optuna):
                # Before the thread does: a process that dies until then has given no sign of life.
                cast(BaseHeartbeat, self._optuna).record_heartbeat(trial)
                self._optuna.set_trial_user_attr(trial, _BEATS, True)
            beating.start()
            self._claims[widths] = trial, beating
            number = self._optuna.get_trial(trial).number
        if self.find(widths) is not None or self._is_begun(widths, before=number):
            self._let_go(widths)
            return False
        return True

    def answer(self, widths: Widths, deadline: float = math.inf) -> Trial | None:
        """Return the trial of these widths once it is there; None if its process has died.

        Raises:
            Unanswered: it is not there at the deadline, in `time.monotonic` seconds.
        """
        while (trial := self.find(widths)) is None and self._is_begun(widths):
            if time.monotonic() >= deadline:
                raise Unanswered
            time.sleep(_LOOK)
        return trial

    def deaths(self, widths: Widths) -> int:
        """How many processes began these widths and died, or seemed to."""
        with self._told("read"):
            failed = self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        begun = (one for one in failed if not (is_recorded(one) or _LET_GO in one.user_attrs))
        return sum(parsed(one)[1].widths == widths for one in begun)

    def waits(self) -> bool:
        """Wait a moment if other processes are evaluating candidates; return whether they are."""
        others = any(one.widths not in self._claims for _, one in self._running())
        if others:
            time.sleep(_LOOK)
        return others

    def close(self) -> None:
        """Let other processes have what was begun here and will not be finished."""
        for _, beating in self._claims.values():  # the process does not end before its threads do
            beating.join()
        for widths in list(self._claims):
            try:
                self._let_go(widths)
            except RunError as error:  # a candidate without signs of life is given up anyway
                log.warning("%s", error)

    def _write(self, trial: Trial, attributes: TrialAttributes) -> None:
        claim = self._claims.pop(trial.candidate.widths, None)
        if claim is None:
            super()._write(trial, attributes)
            return
        number, beating = claim
        beating.join()
        state = TrialState.FAIL if trial.value is None else TrialState.COMPLETE
        said = self._frozen(state, trial.value, attributes).user_attrs
        try:
            for key, value in said.items():
                self._optuna.set_trial_user_attr(number, key, value)
            values = None if trial.value is None else [trial.value]
            self._optuna.set_trial_state_values(number, state, values)
        except UpdateFinishedTrialError:  # no sign of life came through, and it was given up
            if self.find(trial.candidate.widths) is None:
                super()._write(trial, attributes)

    def _let_go(self, widths: Widths) -> None:
        number, beating = self._claims.pop(widths)
        beating.join()
        with self._told("write to"), suppress(UpdateFinishedTrialError):
            self._optuna.set_trial_user_attr(number, _LET_GO, True)
            self._optuna.set_trial_state_values(number, TrialState.FAIL)

    def _is_begun(self, widths: Widths, before: float = math.inf) -> bool:
        """Return whether a process evaluates these widths, by a trial of a lower number."""
        return any(one.widths == widths and trial.number < before for trial, one in self._running())

    def _running(self) -> Iterator[tuple[FrozenTrial, TrialAttributes]]:
        """Yield the running trials; those of dead processes are failed first."""
        with self._told("read"):
            with _without_warnings():
                fail_stale_trials(self._study)
            self._fail_old()
            found = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in found:
            yield trial, parsed(trial)[1]

    def _fail_old(self) -> None:
        """Fail what is old and never gave a sign of life."""
        own = {number for number, _ in self._claims.values()}
        unit = self._shared.heartbeat if is_heartbeat_enabled(self._optuna) else 60
        oldest = datetime.now() - timedelta(seconds=unit * self._shared.patience)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            began, beats = trial.datetime_start, _BEATS in trial.user_attrs
            is_own = trial._trial_id in own
            if not (is_own or beats) and began is not None and began < oldest:
                with suppress(UpdateFinishedTrialError):
                    self._optuna.set_trial_state_values(trial._trial_id, TrialState.FAIL)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Heartbeats are experimental, says Optuna since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
