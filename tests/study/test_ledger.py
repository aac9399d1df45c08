from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from autoprune.errors import RunError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.ledger import STUDY_NAME, Ledger, read_trials
from autoprune.study.trial import Candidate, Trial

SPACE = SearchSpace(("stem", "größe/2"), (8, 5), (2, 1))


def measurement(kept: int) -> Measurement:
    return Measurement(
        widths=(kept, 5),
        names=SPACE.names,
        scores=Scores(kl=0.1 + 0.2, loss=math.pi, top1=0.75, samples=300),
        dense=Scores(kl=0.0, loss=1e-300, top1=1.0, samples=300),
        costs={"flops": 123456789.0, "params": 7.0},
        dense_costs={"flops": 2e12, "params": 9.0},
        seconds={"scoring": 0.25},
    )


TRIALS = [
    Trial(Candidate((8, 5)), -0.5, measurement(8)),
    Trial(Candidate((2, 5), "probe"), 1.5, measurement(2)),
    Trial(Candidate((4, 5)), None, measurement(4), "the reward is nan."),
    Trial(Candidate((3, 1)), None, error="the evaluation failed: MemoryError"),
    Trial(Candidate((5, 5)), 1 / 3, measurement(5)),
]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def full(storage: str) -> Ledger:
    ledger = Ledger(SPACE, storage)
    for trial in TRIALS:
        ledger.record(trial)
    return ledger


def test_trials_come_back_in_order_and_whole(full: Ledger, storage: str) -> None:
    for ledger in (full, Ledger(SPACE, storage)):
        assert list(ledger) == TRIALS and len(ledger) == len(TRIALS)
        assert ledger.find((2, 5)) == TRIALS[1] and ledger.find((7, 5)) is None


def test_seconds_of_all_sessions_are_kept(storage: str) -> None:
    assert Ledger(SPACE, storage).spent == {}
    for seconds in ({"paths": 1.0, "total": 2.0}, {"total": 0.5}):
        Ledger(SPACE, storage).keep_session(seconds)
    assert Ledger(SPACE, storage).spent == {"paths": 1.0, "total": 2.5}


def test_best_leaves_out_probes_and_failures(full: Ledger, storage: str) -> None:
    for ledger in (full, Ledger(SPACE, storage)):
        assert ledger.best(5) == [TRIALS[4], TRIALS[0]]
        assert ledger.best(1) == [TRIALS[4]]


def test_equal_values_stand_in_order_of_evaluation(storage: str) -> None:
    ledger = Ledger(SPACE, storage)
    for width in (5, 3, 8):
        ledger.record(Trial(Candidate((width, 5)), 0.0))
    assert [trial.candidate.widths[0] for trial in ledger.best(3)] == [5, 3, 8]


def test_a_probe_recorded_again_as_candidate_keeps_its_place(full: Ledger, storage: str) -> None:
    full.record(Trial(Candidate((2, 5)), 1.5, measurement(2)))
    for ledger in (full, Ledger(SPACE, storage)):
        assert len(ledger) == len(TRIALS)
        assert [t.candidate.widths for t in ledger] == [t.candidate.widths for t in TRIALS]
        assert ledger.best(1)[0].candidate == Candidate((2, 5))


def test_a_trial_that_was_made_again_is_read_once(full: Ledger, storage: str) -> None:
    again = Trial(TRIALS[3].candidate, 0.25)
    full.record(again)
    assert read_trials(storage) == (*TRIALS[:3], again, TRIALS[4]) == tuple(full)


def test_optuna_sees_an_ordinary_study(full: Ledger, storage: str) -> None:
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.value for trial in study.trials] == [trial.value for trial in TRIALS]
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE",
    ]  # fmt: skip
    assert study.trials[4].params == {"stem": 5 / 8, "größe/2": 1.0}
    assert study.trials[4].user_attrs["measurement"]["scores"]["top1"] == 0.75


def test_a_file_that_is_no_database(tmp_path: Path, storage: str) -> None:
    (tmp_path / "study.db").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(RunError, match="cannot open study"):
        Ledger(SPACE, storage)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot open study"):
        Ledger(SPACE, f"sqlite:///{tmp_path}/missing/study.db")


def test_a_cut_file(full: Ledger, tmp_path: Path, storage: str) -> None:
    del full
    path = tmp_path / "study.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RunError, match=r"study|damaged"):
        Ledger(SPACE, storage)


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace(("stem", "größe/2"), (8, 4), (2, 1)),
        SearchSpace(("stem", "größe/2"), (8, 5), (4, 1), 4),
        SearchSpace(("stem",), (8,), (1,)),
    ],
    ids=["another network", "other options", "fewer groups"],
)
def test_a_study_of_another_search(full: Ledger, storage: str, space: SearchSpace) -> None:
    with pytest.raises(RunError, match="another network or other options"):
        Ledger(space, storage)


def test_a_study_of_somebody_else(storage: str) -> None:
    study = optuna.create_study(storage=storage, study_name=STUDY_NAME, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(RunError, match="trial 0 of the study is damaged"):
        Ledger(SPACE, storage)


def test_damaged_trials(full: Ledger, tmp_path: Path, storage: str) -> None:
    with closing(sqlite3.connect(tmp_path / "study.db")) as database, database:
        database.execute(
            "update trial_user_attributes set value_json = '{\"widths\": 3}' "
            "where key = 'measurement'"
        )
    with pytest.raises(RunError, match="trial 0 of the study is damaged"):
        Ledger(SPACE, storage)
