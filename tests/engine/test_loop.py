"""The loop between a strategy, an evaluation that may fail, and the record on disk."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import SPACE, measurement, problem, reward, run_in_threads

from autoprune.agents.base import Strategy
from autoprune.agents.registry import make_strategy
from autoprune.core.policy import Widths
from autoprune.engine.loop import LoopLimits, LoopReport, Record, SearchFailed, run_loop
from autoprune.errors import EvaluateError, ModelError
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import NamedReward
from autoprune.study.ledger import MOST_FAILURES, Ledger
from autoprune.study.trial import Candidate, Trial


class Scripted(Strategy):
    """Asks what it is told to and remembers its answers."""

    name = "scripted"

    def __init__(self, questions: Iterable[Widths | Candidate | None]) -> None:
        self.problem = problem()
        self._questions = iter(questions)
        self.answers: list[Trial] = []

    def ask(self) -> Candidate | None:
        question = next(self._questions, None)
        return Candidate(question) if isinstance(question, tuple) else question

    def tell(self, trial: Trial) -> None:
        self.answers.append(trial)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(SPACE, f"sqlite:///{tmp_path}/study.db")


Loop = Callable[..., LoopReport]


@pytest.fixture
def loop(ledger: Ledger) -> Loop:
    def run(
        strategy: Strategy,
        trials: int = 10,
        measure: Callable[[Widths], Measurement] = measurement,
        reward: Callable[[Measurement], Any] = reward,
        on_trial: Callable[[Trial], None] = lambda trial: None,
        timeout: float | None = None,
        **limits: Any,
    ) -> LoopReport:
        record = Record(ledger, NamedReward("mine", reward), on_trial)
        evaluate = lambda c, incumbent: partial(measure, c.widths)  # noqa: E731
        return run_in_threads(strategy, evaluate, record, LoopLimits(trials, **limits), timeout)

    return run


def failures(ledger: Ledger) -> int:
    return sum(trial.value is None for trial in ledger)


def all_widths() -> Iterator[Widths]:
    return ((a, b, c) for a, b, c in itertools.product(range(1, 6), repeat=3))


def test_trials_are_counted(loop: Loop, ledger: Ledger) -> None:
    news: list[Trial] = []
    report = loop(Scripted(all_widths()), trials=7, on_trial=news.append)
    assert len(ledger) == 7 and news == list(ledger)
    assert [t.candidate.widths for t in ledger] == list(itertools.islice(all_widths(), 7))
    assert failures(ledger) == 0 and report.strategy_seconds >= 0


def test_known_widths_are_answered_from_the_record_and_not_counted(
    loop: Loop, ledger: Ledger
) -> None:
    measured: list[Widths] = []

    def measure(widths: Widths) -> Measurement:
        measured.append(widths)
        return measurement(widths)

    strategy = Scripted([(1, 1, 1), (2, 2, 2), (1, 1, 1), (1, 1, 1), (3, 3, 3)])
    loop(strategy, trials=3, measure=measure)
    assert measured == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    assert len(ledger) == 3
    assert strategy.answers[0] == strategy.answers[2] == strategy.answers[3]
    assert len(strategy.answers) == 5


def test_what_a_dead_process_leaves_counts_as_any_other_trial(loop: Loop, tmp_path: Path) -> None:
    class Inherits(Ledger):
        """The first candidate is begun elsewhere, by a process that dies."""

        asked = 0

        def claim(self, candidate: Candidate) -> bool:
            self.asked += 1
            return self.asked > 1 and super().claim(candidate)

    ledger = Inherits(SPACE, f"sqlite:///{tmp_path}/inherits.db")
    run_loop(
        Scripted(all_widths()),
        lambda candidate, incumbent, alone: lambda: measurement(candidate.widths),
        Record(ledger, reward),
        LoopLimits(3),
    )
    assert len(ledger) == 3


def test_a_strategy_that_only_repeats_itself_ends(loop: Loop, ledger: Ledger) -> None:
    loop(Scripted(itertools.repeat((2, 2, 2))))
    assert len(ledger) == 1


def test_a_strategy_that_has_nothing_left_ends(loop: Loop, ledger: Ledger) -> None:
    loop(Scripted([(1, 1, 1), None]))
    assert len(ledger) == 1


def test_no_trial_begins_behind_the_deadline(loop: Loop, ledger: Ledger) -> None:
    def slow(widths: Widths) -> Measurement:
        time.sleep(0.05)
        return measurement(widths)

    loop(Scripted(all_widths()), trials=100, measure=slow, deadline=time.monotonic() + 0.12)
    assert 1 <= len(ledger) <= 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes\nand a traceback"), "RuntimeError: shapes"),
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), "OutOfMemoryError: CUDA out of memory."),
        (torch.linalg.LinAlgError("singular"), "singular"),
        (ZeroDivisionError("division"), "division"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failing_evaluation_is_a_failed_trial(
    error: Exception, said: str, loop: Loop, ledger: Ledger
) -> None:
    def measure(widths: Widths) -> Measurement:
        if widths == (1, 1, 2):
            raise error
        return measurement(widths)

    loop(Scripted(all_widths()), trials=4, measure=measure)
    assert failures(ledger) == 1
    failed = ledger.find((1, 1, 2))
    assert failed is not None and failed.value is None and failed.measurement is None
    assert said in str(failed.error) and "\n" not in str(failed.error)
    assert len(ledger) == 4 and failed not in ledger.best(10)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: 1 / 0, "the reward 'mine' raised ZeroDivisionError: division by zero for a"),
        (lambda: math.nan, "the reward 'mine' returned nan, which is not a finite number"),
    ],
)
def test_a_reward_that_fails_is_a_failed_trial_with_its_measurement(
    answer: Callable[[], Any], said: str, loop: Loop, ledger: Ledger
) -> None:
    def unsteady(found: Measurement) -> Any:
        return answer() if found.widths == (1, 1, 2) else reward(found)

    strategy = Scripted(all_widths())
    loop(strategy, trials=4, reward=unsteady)
    assert failures(ledger) == 1
    failed = strategy.answers[1]
    assert failed.value is None and said in str(failed.error)
    assert str(failed.error).endswith("for a network of flops=4")
    assert failed.measurement == measurement((1, 1, 2)) and len(ledger) == 4


@pytest.mark.parametrize(
    "error",
    [
        EvaluateError("evaluate(model) raised KeyError: 'top5'"),
        ModelError("the pruned network cannot be run: IndexError: no such head"),
    ],
)
def test_code_of_the_users_own_that_raises_is_a_failed_trial(
    error: Exception, loop: Loop, ledger: Ledger
) -> None:
    def measure(widths: Widths) -> Measurement:
        if widths == (1, 1, 2):
            raise error
        return measurement(widths)

    loop(Scripted(all_widths()), trials=4, measure=measure)
    failed = ledger.find((1, 1, 2))
    assert failed is not None and failed.error == str(error)
    assert len(ledger) == 4


def test_replay_is_not_cut_short_by_the_time(loop: Loop, ledger: Ledger) -> None:
    """A strategy that heard half of what it had learnt would be handed over as that."""
    loop(Scripted(all_widths()), trials=5)
    strategy = Scripted(all_widths())
    report = loop(strategy, trials=9, deadline=0.0)
    assert len(strategy.answers) == 5 and len(ledger) == 5 and report.timed_out


def test_failures_in_a_row_end_the_search(loop: Loop, ledger: Ledger) -> None:
    def broken(widths: Widths) -> Measurement:
        raise RuntimeError("no kernel")

    with pytest.raises(SearchFailed, match=f"{MOST_FAILURES} trials in a row failed.*no kernel"):
        loop(Scripted(all_widths()), trials=50, measure=broken)
    assert len(ledger) == MOST_FAILURES


def test_failures_that_ended_a_search_are_tried_again(tmp_path: Path) -> None:
    """Two good trials, then none; mended, the search goes on as if nothing had happened."""
    storage = f"sqlite:///{tmp_path}/study.db"

    def search(reward: Callable[[Measurement], float], trials: int = 12) -> list[Widths]:
        measured: list[Widths] = []

        def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
            measured.append(candidate.widths)
            return partial(measurement, candidate.widths)

        strategy, ledger = make_strategy("bayes", problem(12)), Ledger(SPACE, storage)
        try:
            run_in_threads(
                strategy, measure, Record(ledger, NamedReward("mine", reward)), LoopLimits(trials)
            )
        except SearchFailed:
            assert ledger.failures == MOST_FAILURES
        return measured

    def broken(found: Measurement) -> float:
        raise KeyError("latency")

    good = search(reward, trials=2)
    failed = search(broken)
    assert len(failed) == MOST_FAILURES and len(Ledger(SPACE, storage)) == 2
    assert search(broken) == failed
    mended = search(reward)
    assert mended[0] == failed[0] and len(mended) == 10
    after = list(Ledger(SPACE, storage))
    assert [t.candidate.widths for t in after] == good + mended
    assert all(t.value is not None for t in after)


@pytest.mark.parametrize("failures", [1, MOST_FAILURES - 1, MOST_FAILURES])
def test_failures_in_a_row_are_counted_across_sessions(
    failures: int, loop: Loop, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/other.db"
    ledger, questions = Ledger(SPACE, storage), list(all_widths())
    ledger.record(Trial(Candidate(questions[0]), 1.0))
    for widths in questions[1 : failures + 1]:
        ledger.record(Trial(Candidate(widths), None, error="out of memory"))
    again = Ledger(SPACE, storage)
    kept = 0 if failures == MOST_FAILURES else failures
    assert (ledger.failures, again.failures, len(again)) == (failures, kept, 1 + kept)


def test_interrupting_the_reward_interrupts_the_search(loop: Loop, ledger: Ledger) -> None:
    def interrupted(found: Measurement) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop(Scripted(all_widths()), reward=interrupted)
    assert len(ledger) == 0


def test_failures_here_and_there_do_not(loop: Loop, ledger: Ledger) -> None:
    def flaky(widths: Widths) -> Measurement:
        if widths[2] != 3:
            raise RuntimeError("again")
        return measurement(widths)

    loop(Scripted(all_widths()), trials=50, measure=flaky)
    assert failures(ledger) == 40


def test_errors_of_the_program_are_not_swallowed(loop: Loop) -> None:
    def wrong(widths: Widths) -> Measurement:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError, match="a bug"):
        loop(Scripted(all_widths()), measure=wrong)


def test_a_candidate_over_the_budget_is_refused(loop: Loop, ledger: Ledger) -> None:
    measured: list[Widths] = []

    def measure(widths: Widths) -> Measurement:
        measured.append(widths)
        return measurement(widths)

    strategy = Scripted([(9, 9, 9), (5, 5, 5)])
    loop(strategy, measure=measure)
    assert failures(ledger) == 1
    assert measured == [(5, 5, 5)] and len(ledger) == 2
    assert strategy.answers[0].error == "scripted proposed widths over the budget."


def test_probes_are_evaluated_over_the_budget_and_never_win(loop: Loop, ledger: Ledger) -> None:
    strategy = Scripted([Candidate((8, 4, 4), "probe"), (5, 5, 5), Candidate((8, 4, 2), "probe")])
    loop(strategy)
    assert failures(ledger) == 0
    assert [trial.value for trial in strategy.answers] == [-4.0, -19.0, 0.0]
    assert [trial.candidate.widths for trial in ledger.best(5)] == [(5, 5, 5)]


def test_a_probe_that_is_proposed_in_earnest_can_win(loop: Loop, ledger: Ledger) -> None:
    probe, asked = Candidate((8, 4, 2), "probe"), Candidate((8, 4, 2))
    strategy = Scripted([probe, (5, 5, 5), asked, probe, asked])
    loop(strategy)
    assert len(ledger) == 2
    assert [trial.candidate for trial in ledger.best(5)] == [asked, Candidate((5, 5, 5))]
    assert [t.candidate for t in strategy.answers] == [
        probe, Candidate((5, 5, 5)), asked, probe, asked,
    ]  # fmt: skip


def test_a_probe_over_the_budget_cannot_be_proposed(loop: Loop, ledger: Ledger) -> None:
    strategy = Scripted([Candidate((9, 9, 9), "probe"), Candidate((9, 9, 9)), (5, 5, 5)])
    loop(strategy)
    assert strategy.answers[1].value is None and "over the budget" in str(strategy.answers[1].error)
    assert [trial.candidate.widths for trial in ledger.best(5)] == [(5, 5, 5)]


@pytest.mark.parametrize(
    ("name", "sampler", "interrupted_at"),
    [("random", None, 4), ("bayes", "tpe", 0), ("bayes", "cmaes", 7), ("bayes", "gp", 11)],
)
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(
    name: str, sampler: str | None, interrupted_at: int, tmp_path: Path
) -> None:
    """Every third evaluation fails; the storage is opened again, as by another process."""

    def search(storage: str, stop_at: int | None) -> list[Widths]:
        measured: list[Widths] = []

        def measure(widths: Widths) -> Measurement:
            if len(measured) == stop_at:
                raise KeyboardInterrupt
            measured.append(widths)
            if sum(widths) % 3 == 0 and widths[0] % 2:
                raise RuntimeError("unlucky")
            return measurement(widths)

        strategy = make_strategy(name, problem(12), sampler=sampler)
        ledger = Ledger(SPACE, f"sqlite:///{tmp_path}/{storage}.db")
        try:
            evaluate = lambda c, incumbent: partial(measure, c.widths)  # noqa: E731
            run_in_threads(strategy, evaluate, Record(ledger, reward), LoopLimits(12))
        except KeyboardInterrupt:
            assert stop_at is not None
        return measured

    search("whole", None)
    before = search("parts", interrupted_at)
    after = search("parts", None)
    assert len(before) == interrupted_at and len(after) == 12 - interrupted_at
    whole, parts = (list(Ledger(SPACE, f"sqlite:///{tmp_path}/{n}.db")) for n in ("whole", "parts"))
    assert whole == parts and [t.candidate.widths for t in parts] == before + after


def test_a_finished_search_is_replayed_without_any_evaluation(loop: Loop, ledger: Ledger) -> None:
    def forbidden(widths: Widths) -> Measurement:
        raise AssertionError

    loop(make_strategy("random", problem()))
    strategy = make_strategy("random", problem())
    loop(strategy, measure=forbidden)
    assert len(ledger) == 10
    loop(make_strategy("random", problem()), trials=12)
    assert len(ledger) == 12


def test_an_evaluation_that_hangs_fails_its_trial_alone(loop: Loop, ledger: Ledger) -> None:
    def measure(widths: Widths) -> Measurement:
        while widths == (1, 1, 2):
            pass
        return measurement(widths)

    loop(Scripted(all_widths()), trials=4, measure=measure, timeout=1.0)
    errors = {t.candidate.widths: t.error for t in ledger}
    assert len(errors) == 4
    assert errors.pop((1, 1, 2)) == "the evaluation took longer than 1 s"
    assert set(errors.values()) == {None}


class Abandoned(Ledger):
    """Another process began a trial, and is found to have died once this one would wait for it."""

    has_died = False

    @property
    def of_others(self) -> int:
        return 0 if self.has_died else 1

    def waits(self) -> bool:
        self.has_died = True
        return False


def test_what_a_process_left_as_the_last_one_is_made_here(tmp_path: Path) -> None:
    """It counted when the questions were over, and no longer when nothing else was on its way."""
    ledger = Abandoned(SPACE, f"sqlite:///{tmp_path}/study.db")
    strategy = make_strategy("random", problem(ledger.begin_round("1", 4)))
    record = Record(ledger, NamedReward("mine", reward))
    evaluate = lambda c, incumbent: partial(measurement, c.widths)  # noqa: E731
    run_in_threads(strategy, evaluate, record, LoopLimits(4))
    assert len(ledger) == 4
