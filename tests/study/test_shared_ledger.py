"""Several processes search one study: no trial is lost or made twice, and the dead are heard."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from loops import SPACE, measurement, problem, reward
from optuna.exceptions import StorageInternalError
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import TrialState

from autoprune.agents.base import Strategy
from autoprune.agents.registry import make_strategy
from autoprune.core.policy import Widths
from autoprune.engine.executors import MOST_DEATHS
from autoprune.engine.loop import LoopLimits, LoopReport, Record, run_loop
from autoprune.errors import AutopruneError, RunError, UsageError
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.ledger import MOST_FAILURES, Ledger, read_trials
from autoprune.study.shared_ledger import SharedLedger, SharedStudy
from autoprune.study.trial import Candidate, Trial

A, B = (9, 4, 2), (8, 5, 2)


def trial(widths: Widths) -> Trial:
    found = measurement(widths)
    return Trial(Candidate(widths), reward(found), found)


@pytest.fixture(params=["sqlite:///", "journal://"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}{tmp_path}/shared"


def shared(url: str, owner: str, **given: Any) -> SharedLedger:
    return SharedLedger(SPACE, SharedStudy(url, "study", owner, **given))


def beat_of(ledger: SharedLedger) -> int | None:
    storage = ledger._optuna
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None


@pytest.fixture
def both(url: str) -> Any:
    ledgers = shared(url, "one"), shared(url, "two")
    yield ledgers
    for ledger in ledgers:
        ledger.close()


def test_a_candidate_is_evaluated_by_one_of_them(both: Any) -> None:
    one, two = both
    assert one.claim(Candidate(A)) and not two.claim(Candidate(A)) and two.claim(Candidate(B))
    assert (one.of_others, two.of_others) == (1, 1)
    one.record(trial(A))
    assert two.answer(A) == trial(A) == one.find(A)
    assert not two.claim(Candidate(A)) and two.find(B) is None
    two.record(trial(B))
    assert list(one.best(2)) and {t.candidate.widths for t in one.best(2)} == {A, B}
    assert [t.candidate.widths for t in one.own_of_round] == [A] and len(one.of_round) == 2


def test_every_process_has_a_seed_of_its_own(both: Any, url: str) -> None:
    one, two = (ledger.seed_offset for ledger in both)
    assert one != two and shared(url, "one").seed_offset == one


def test_what_is_said_of_one_process_is_not_said_of_others(both: Any) -> None:
    one, two = both
    assert (one.begin_round("1", 3), two.begin_round("1", 5)) == (3, 5)
    one.remark(one.own_key("strategy"), "random")
    assert two.remarked(two.own_key("strategy"), str) is None
    one.claim(Candidate(A))
    one.record(trial(A))
    assert two.answer(A) == trial(A)
    assert (one.made_here, two.made_here, two.made) == ([trial(A)], [], [trial(A)])


def test_all_processes_give_signs_of_life_as_the_first_one(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    signs = [
        (one._shared.heartbeat, one._shared.patience, beat_of(one))
        for one in (
            shared(url, "one", heartbeat=7, patience=2),
            shared(url, "two", heartbeat=1, patience=1),
            shared(url, "three", heartbeat=7, patience=2),
        )
    ]
    assert signs == [signs[0]] * 3 and signs[0][:2] == (7, 2)
    said = [message for message in caplog.messages if "every 7 s, of which 2 may be" in message]
    assert len(said) == 1


def test_failures_are_known_to_all(both: Any) -> None:
    one, two = both
    failed = Trial(Candidate(A), None, error="the evaluation failed: MemoryError")
    assert one.claim(failed.candidate)
    one.record(failed)
    assert two.answer(A) == failed


def test_failures_are_counted_once_and_for_their_own_process(both: Any, url: str) -> None:
    one, two = both
    for count, widths in enumerate((A, B), 1):
        one.claim(Candidate(widths))
        one.record(Trial(Candidate(widths), None, error="the evaluation failed: MemoryError"))
        assert one.find(widths) is not None and two.find(widths) is not None
        assert (one.failures, two.failures) == (count, 0)
    assert shared(url, "three").failures == 0


def fail(ledger: SharedLedger, widths: Widths) -> None:
    assert ledger.claim(Candidate(widths))
    ledger.record(Trial(Candidate(widths), None, error="the evaluation failed: MemoryError"))


def test_failures_of_several_processes_are_not_added_up(both: Any, url: str) -> None:
    questions = [(9, 4, width) for width in range(1, 2 * (MOST_FAILURES - 2) + 1)]
    for number, widths in enumerate(questions):
        fail(both[number % 2], widths)
    joined, resumed = shared(url, "three"), shared(url, "one")
    assert {one.candidate.widths for one in joined} == {*questions}
    assert (len(resumed), resumed.failures, joined.failures) == (6, MOST_FAILURES - 2, 0)


def test_failures_that_ended_a_process_are_tried_again_by_it(both: Any, url: str) -> None:
    one, two = both
    questions = [(9, 4, width) for width in range(1, MOST_FAILURES + 1)]
    for widths in questions:
        fail(one, widths)
        two.claim(Candidate((8, *widths[1:])))
        two.record(trial((8, *widths[1:])))
    assert one.failures == MOST_FAILURES
    resumed = shared(url, "one")
    assert (len(resumed), resumed.failures) == (MOST_FAILURES, 0)
    for widths in questions:
        assert resumed.claim(Candidate(widths))
    resumed.record(trial(questions[0]))
    resumed.close()
    again = shared(url, "one")  # interrupted before it tried the others again
    assert [t.candidate.widths for t in again.own_of_round] == [questions[0]]


def test_trials_taken_over_late_are_known_to_all(both: Any) -> None:
    one, two = both
    one.begin_round("1", 3)
    one.claim(Candidate(B))
    one.record(trial(B))
    two.take_over([trial(A)])
    assert {t.candidate.widths for t in one.best(2)} == {A, B}
    assert [t.candidate.widths for t in one.taken_over] == [A]


def test_what_is_let_go_is_taken_by_another(both: Any) -> None:
    one, two = both
    assert one.claim(Candidate(A))
    one.close()
    assert two.answer(A) is None and two.claim(Candidate(A))


class Scripted(Strategy):
    """Asks for two candidates at once, awaits a third one, and would go on."""

    name = "scripted"

    def __init__(self) -> None:
        self.problem = problem()
        self._questions = iter([(A, False), (B, False), ((7, 5, 3), True)])
        self.asked, self.told = 0, list[Widths]()

    def ask(self) -> Candidate:
        self.asked += 1
        widths, awaited = next(self._questions)
        return Candidate(widths, awaited=awaited)

    def tell(self, trial: Trial) -> None:
        self.told.append(trial.candidate.widths)


def run(strategy: Strategy, ledger: SharedLedger, limits: LoopLimits) -> LoopReport:
    evaluate = lambda candidate, incumbent, alone: lambda: measurement(candidate.widths)  # noqa: E731
    return run_loop(strategy, evaluate, Record(ledger, reward), limits)


@pytest.mark.parametrize("deaths", [MOST_DEATHS - 1, MOST_DEATHS])
def test_a_candidate_at_which_process_after_process_dies_fails(both: Any, deaths: int) -> None:
    one, two = both
    for _ in range(deaths):
        assert one.claim(Candidate(A)) and one.claim(Candidate(B))
        number, beating = one._claims.pop(A)
        beating.join()
        one._optuna.set_trial_state_values(number, TrialState.FAIL)  # as what gives no sign of life
        one.close()
    run(Scripted(), two, LoopLimits(3))
    error = "3 processes ended, or gave no sign of life, while they evaluated it."
    assert two.find(A).error == (error if deaths == MOST_DEATHS else None)
    assert two.find(B).error is None and len(two.own_of_round) == 3


def test_the_time_is_over_though_another_process_hangs(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both
    one.claim(Candidate(B))
    strategy = Scripted()
    monkeypatch.setattr(time, "monotonic", lambda: 9.0 if strategy.asked == 3 else 0.0)
    report = run(strategy, two, LoopLimits(9, deadline=5.0, at_once=9))
    assert report.timed_out
    assert strategy.told == [A]  # in the order of asking
    assert [t.candidate.widths for t in two.own_of_round] == [A, (7, 5, 3)]  # none is lost


def test_what_was_given_up_can_be_let_go(both: Any, caplog: pytest.LogCaptureFixture) -> None:
    one, two = both
    assert one.claim(Candidate(A)) and one.claim(Candidate(B))
    given_up = next(number for number, _ in one._claims.values())
    two._optuna.set_trial_state_values(given_up, TrialState.FAIL)
    one.close()
    assert not caplog.messages and not one._claims
    assert two.claim(Candidate(A)) and two.claim(Candidate(B))


def test_what_cannot_be_let_go_keeps_no_thread_alive(
    both: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = both

    def fail(*given: Any) -> None:
        raise StorageInternalError("An exception is raised") from OSError("the server is gone")

    before = threading.active_count()
    assert one.claim(Candidate(A)) and one.claim(Candidate(B))
    with monkeypatch.context() as patch:
        patch.setattr(one._optuna, "set_trial_state_values", fail)
        one.close()
    assert threading.active_count() == before
    assert [message.count("the server is gone") for message in caplog.messages] == [1, 1]


def test_a_copy_has_what_is_recorded_and_nothing_else(both: Any, tmp_path: Path) -> None:
    one, two = both
    for ledger, widths in ((one, A), (two, B)):
        ledger.claim(Candidate(widths))
        ledger.record(trial(widths))
    one.claim(Candidate((7, 5, 3)))
    two.remark("something", 3)
    copy = f"sqlite:///{tmp_path}/copy.db"
    two.copy_to(copy)
    assert read_trials(copy) == (trial(A), trial(B))
    assert Ledger(SPACE, copy).remarked("something", int) == 3


def test_a_study_of_another_search_is_refused(url: str) -> None:
    ledger = shared(url, "one")
    ledger.claim(Candidate(A))
    ledger.record(trial(A))
    with pytest.raises(RunError, match="another network or other options"):
        SharedLedger(SearchSpace(("x",), (9,), (1,)), SharedStudy(url, "study", "two"))


def test_storages_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot open study .*missing"):
        shared(f"sqlite:///{tmp_path}/missing/study.db", "one")
    with pytest.raises(AutopruneError, match=r"pip install|cannot open study"):
        shared("mysql+pymysql://nobody@localhost:1/none", "one")
    with pytest.raises(UsageError, match=r"cannot open study|is not installed"):
        shared("strange+driver://x/y", "one")


def search(url: str, owner: str, log: Path, trials: int, until: int | None = None) -> None:
    """Search, writing down every evaluation; be killed within one of them."""
    ledger = shared(url, owner, heartbeat=1, patience=2)
    made = 0

    def evaluate(candidate: Candidate, incumbent: Widths | None, alone: bool) -> Callable[[], Any]:
        def measured() -> Any:
            nonlocal made
            made += 1
            if made == until:
                os.kill(os.getpid(), signal.SIGKILL)
            with log.open("a") as file:
                file.write(f"{owner} {candidate.widths}\n")
            return measurement(candidate.widths)

        return measured

    planned = problem(ledger.begin_round("1", trials), seed=ledger.seed_offset)
    strategy = make_strategy("random", planned)
    run_loop(strategy, evaluate, Record(ledger, reward), LoopLimits(trials))
    ledger.close()


def check_together(url: str, folder: Path) -> None:
    """Search with two processes, of which one is killed, and a third that is begun then."""
    log, context = folder / "evaluated", multiprocessing.get_context("fork")
    log.touch()
    given = [("one", 6), ("two", None)]
    processes = [
        context.Process(target=search, args=(url, owner, log, 24, until)) for owner, until in given
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0]
    evaluated = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    ledger = shared(url, "reader")
    recorded = [str(one.candidate.widths) for one in ledger]
    assert len(recorded) == 24
    assert Counter(recorded).most_common(1)[0][1] == 1
    assert sorted(evaluated) == sorted(recorded)  # none was lost, none was made twice
    study = optuna.load_study(study_name="study", storage=ledger._optuna)
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_two_processes_one_of_them_killed(tmp_path: Path) -> None:
    check_together(f"sqlite:///{tmp_path}/shared.db", tmp_path)


def test_connections_that_the_server_dropped(postgresql: str) -> None:
    import psycopg2

    ledger = SharedLedger(SPACE, SharedStudy(postgresql, "dropped", "one"))
    with closing(psycopg2.connect(postgresql)) as server, server.cursor() as cursor:
        cursor.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
            "and datname = current_database()"
        )
        assert cursor.rowcount > 0
    assert ledger.claim(Candidate(A))
    ledger.record(trial(A))


def test_two_processes_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    check_together(postgresql, tmp_path)
