"""The loop where several candidates are evaluated at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import SPACE, measurement, problem, reward, run_in_threads

from autoprune.agents.base import Strategy
from autoprune.agents.registry import make_strategy
from autoprune.core.policy import Widths
from autoprune.engine.loop import LoopLimits, Record, SearchFailed
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import NamedReward
from autoprune.study.ledger import MOST_FAILURES, Ledger
from autoprune.study.trial import Candidate, Trial

PATIENCE = 30.0
REWARD = NamedReward("mine", reward)


class Scripted(Strategy):
    """Asks what it is told to, and writes down what is asked and told."""

    name = "scripted"

    def __init__(self, questions: Iterable[tuple[Widths, bool]]) -> None:
        self.problem = problem()
        self._questions = iter(questions)
        self.events: list[tuple[str, int]] = []

    def ask(self) -> Candidate | None:
        question = next(self._questions, None)
        if question is None:
            return None
        self.events.append(("ask", question[0][0]))
        return Candidate(question[0], awaited=question[1])

    def tell(self, trial: Trial) -> None:
        self.events.append(("tell", trial.candidate.widths[0]))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(SPACE, f"sqlite:///{tmp_path}/study.db")


def free(*first: int) -> list[tuple[Widths, bool]]:
    return [((number, 1, 1), False) for number in first]


def test_as_many_are_on_their_way_as_there_are_workers(ledger: Ledger) -> None:
    """All three must have begun before any of them can end."""
    barrier, most = threading.Barrier(3, timeout=PATIENCE), Counter[str]()

    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            barrier.wait()
            most["threads"] = max(most["threads"], threading.active_count())
            return measurement(candidate.widths)

        return evaluate

    before = threading.active_count()
    run_in_threads(
        Scripted(free(*range(1, 7))), measure, Record(ledger, REWARD), LoopLimits(6, at_once=3)
    )
    assert len(ledger) == 6 and most["threads"] <= before + 3
    assert not any(trial.error for trial in ledger)


def test_trials_are_told_in_the_order_of_the_questions(ledger: Ledger) -> None:
    """Each one takes less time than the one before it."""

    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            time.sleep(0.05 * (4 - candidate.widths[0]))
            return measurement(candidate.widths)

        return evaluate

    strategy = Scripted(free(1, 2, 3, 4))
    run_in_threads(strategy, measure, Record(ledger, REWARD), LoopLimits(4, at_once=2))
    asked = [("ask", 1), ("ask", 2), ("tell", 1), ("ask", 3), ("tell", 2), ("ask", 4)]
    assert strategy.events == [*asked, ("tell", 3), ("tell", 4)]
    assert [trial.candidate.widths[0] for trial in ledger] == [1, 2, 3, 4]


def test_what_a_strategy_awaits_is_told_before_it_asks_again(ledger: Ledger) -> None:
    strategy = Scripted([*free(1, 2), ((3, 1, 1), True), *free(4)])
    measure = lambda c, incumbent: partial(measurement, c.widths)  # noqa: E731
    run_in_threads(strategy, measure, Record(ledger, REWARD), LoopLimits(10, at_once=4))
    order = [*[("ask", n) for n in (1, 2, 3)], *[("tell", n) for n in (1, 2, 3)]]
    assert strategy.events == [*order, ("ask", 4), ("tell", 4)]


def test_what_is_on_its_way_is_not_evaluated_again(ledger: Ledger) -> None:
    measured = Counter[Widths]()

    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        measured[candidate.widths] += 1
        return partial(measurement, candidate.widths)

    strategy = Scripted(free(1, 1, 2, 1, 3, 4))
    run_in_threads(strategy, measure, Record(ledger, REWARD), LoopLimits(3, at_once=3))
    assert measured == Counter([(1, 1, 1), (2, 1, 1), (3, 1, 1)])
    assert [n for what, n in strategy.events if what == "tell"] == [1, 1, 2, 1, 3]


def test_failures_in_a_row_end_the_search(ledger: Ledger) -> None:
    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def fail() -> Measurement:
            raise MemoryError("too large")

        return fail

    with pytest.raises(SearchFailed, match=r"5 trials in a row failed.*MemoryError: too large"):
        run_in_threads(
            Scripted(free(*range(1, 10))), measure, Record(ledger, REWARD), LoopLimits(9, at_once=3)
        )
    assert ledger.failures == MOST_FAILURES


def test_threads_share_what_pytorch_may_use(ledger: Ledger) -> None:
    seen: set[int] = set()

    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            seen.add(torch.get_num_threads())
            return measurement(candidate.widths)

        return evaluate

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        run_in_threads(
            Scripted(free(1, 2, 3)), measure, Record(ledger, REWARD), LoopLimits(3, at_once=2)
        )
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert seen == {2}


@pytest.mark.parametrize("end", [KeyboardInterrupt, AttributeError])
def test_an_end_in_the_middle_leaves_threads_as_they_were(
    end: type[BaseException], ledger: Ledger
) -> None:
    def evaluate(widths: Widths) -> Measurement:
        if widths[0] == 3:
            raise end
        return measurement(widths)

    before = threading.active_count(), torch.get_num_threads()
    with pytest.raises(end):
        run_in_threads(
            Scripted(free(*range(1, 9))),
            lambda c, incumbent: partial(evaluate, c.widths),
            Record(ledger, REWARD),
            LoopLimits(8, at_once=2),
        )
    assert (threading.active_count(), torch.get_num_threads()) == before
    assert [trial.candidate.widths[0] for trial in ledger] == [1, 2]


def test_what_is_on_its_way_when_time_ends_is_told(ledger: Ledger) -> None:
    strategy = Scripted(free(*range(1, 9)))
    slow = Slow(0.3)
    report = run_in_threads(
        strategy, slow, Record(ledger, REWARD), LoopLimits(8, time.monotonic() + 0.1, at_once=2)
    )
    assert report.timed_out and len(ledger) == 2
    assert [n for what, n in strategy.events if what == "tell"] == [1, 2]


class Slow:
    """Evaluates after a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            time.sleep(self._seconds)
            return measurement(candidate.widths)

        return evaluate


def test_what_is_awaited_alone_has_the_whole_processor(ledger: Ledger) -> None:
    seen: list[tuple[int, bool]] = []

    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            alone = threading.current_thread() is threading.main_thread()
            seen.append((candidate.widths[0], alone))
            return measurement(candidate.widths)

        return evaluate

    questions = [((1, 1, 1), True), *free(2), ((3, 1, 1), True), ((4, 1, 1), True)]
    run_in_threads(Scripted(questions), measure, Record(ledger, REWARD), LoopLimits(4, at_once=2))
    assert sorted(seen) == [(1, True), (2, False), (3, False), (4, True)]


def test_more_workers_than_trials(ledger: Ledger) -> None:
    measure = lambda c, incumbent: partial(measurement, c.widths)  # noqa: E731
    run_in_threads(
        Scripted(free(*range(1, 9))), measure, Record(ledger, REWARD), LoopLimits(2, at_once=5)
    )
    assert len(ledger) == 2


def test_over_the_budget_is_never_begun(ledger: Ledger) -> None:
    def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
        def evaluate() -> Measurement:
            assert candidate.widths != (9, 9, 9)
            return measurement(candidate.widths)

        return evaluate

    strategy = Scripted([*free(1), ((9, 9, 9), False), *free(2)])
    run_in_threads(strategy, measure, Record(ledger, REWARD), LoopLimits(3, at_once=3))
    assert [trial.value is None for trial in ledger] == [False, True, False]


# The GP takes a while for every candidate.
STRATEGIES = [
    *[("random", None, 24), ("bayes", "tpe", 24), ("bayes", "gp", 12), ("bayes", "cmaes", 24)],
    *[("evolution", None, 24), ("local", None, 24), ("netadapt", None, 24)],
    *[("knapsack", None, 24), ("sensitivity", None, 24), ("global", None, 24)],
]


@pytest.mark.parametrize(("name", "sampler", "trials"), STRATEGIES)
def test_a_search_does_not_depend_on_how_long_anything_takes(
    name: str, sampler: str | None, trials: int, tmp_path: Path
) -> None:
    """Nor on an interruption: evaluations fail here and there, and one search is cut in two."""

    incumbents: dict[Widths, Widths | None] = {}

    def search(storage: str, delay: float, stop_at: int | None = None) -> list[Trial]:
        begun = Counter[str]()

        def evaluate(widths: Widths, number: int) -> Measurement:
            time.sleep(delay * (number % 3))
            if (widths[0] + 2 * widths[1] + 3 * widths[2]) % 5 == 0:
                raise RuntimeError("unlucky")
            return measurement(widths)

        def measure(candidate: Candidate, incumbent: Widths | None) -> Callable[[], Measurement]:
            if begun["trials"] == stop_at:
                raise KeyboardInterrupt
            begun["trials"] += 1
            incumbents[candidate.widths] = incumbent
            return partial(evaluate, candidate.widths, begun["trials"])

        strategy: Strategy = make_strategy(name, problem(trials, at_once=3), sampler=sampler)
        ledger = Ledger(SPACE, f"sqlite:///{tmp_path}/{storage}.db")
        try:
            run_in_threads(strategy, measure, Record(ledger, REWARD), LoopLimits(trials, at_once=3))
        except KeyboardInterrupt:
            assert stop_at is not None
        return [replace(trial, measurement=None) for trial in ledger]

    whole = search("whole", delay=0.004)
    compared = dict(incumbents)
    assert whole == search("at once", delay=0.0) and incumbents == compared
    assert len(search("parts", 0.0, min(9, len(whole) // 2))) <= 9
    assert search("parts", 0.002) == whole
    # Who races whom does not depend on it either: the record knows more than was told.
    assert incumbents == compared


@pytest.mark.parametrize("name", ["bayes", "local", "netadapt", "knapsack", "evolution", "random"])
def test_strategies_that_search_have_several_on_their_way(name: str, tmp_path: Path) -> None:
    most, running = Counter[str](), threading.Semaphore(0)
    lock = threading.Lock()

    def evaluate(widths: Widths) -> Measurement:
        with lock:
            most["now"] += 1
            most["most"] = max(most["most"], most["now"])
        running.acquire(timeout=0.02 if most["most"] == 2 else 0.5)  # others may begin
        with lock:
            most["now"] -= 1
        return measurement(widths)

    strategy: Any = make_strategy(name, problem(24, at_once=2))
    ledger = Ledger(SPACE, f"sqlite:///{tmp_path}/study.db")
    run_in_threads(
        strategy,
        lambda c, incumbent: partial(evaluate, c.widths),
        Record(ledger, REWARD),
        LoopLimits(24, at_once=2),
    )
    assert most["most"] == 2
