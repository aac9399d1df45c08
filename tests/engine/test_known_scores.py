"""What one worker knows of the incumbent goes to the others, and changes nothing that is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from loops import measurement

from autoprune.core.policy import Widths
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.known_scores import MOST, KnownScores
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.sample_scores import SampleScores

A, B = (9, 4, 2), (8, 5, 2)


class Worker:
    """Evaluators of a process that remembers scores; it counts the incumbents that it lacked."""

    stops_early = True

    def __init__(self) -> None:
        self.known: dict[Widths, SampleScores] = {}
        self.lacked: list[Widths] = []
        self.search = self

    def measure(self, widths: Widths, base: Widths | None, incumbent: Widths | None) -> Measurement:
        if incumbent is not None and incumbent not in self.known:
            self.lacked.append(incumbent)
            self.known[incumbent] = scores(incumbent)
        self.known[widths] = scores(widths)
        return measurement(widths)

    def by_sample(self, widths: Widths) -> SampleScores | None:
        return self.known.get(widths)

    def remember(self, widths: Widths, scores: SampleScores) -> None:
        self.known[widths] = scores


def scores(widths: Widths) -> SampleScores:
    return SampleScores(torch.full((2, 3), float(widths[0])))


def done(known: KnownScores, worker: Worker, widths: Widths, incumbent: Widths | None) -> Any:
    work = known.work(widths, None, incumbent)
    return known.learning(lambda: work(cast(Evaluators, worker)))()


def test_a_worker_is_told_what_another_found() -> None:
    known, one, two = KnownScores(), Worker(), Worker()
    assert done(known, one, A, None) == measurement(A)
    assert done(known, two, B, A) == measurement(B)
    assert two.lacked == [] and bool((two.known[A].rows == scores(A).rows).all())


def test_what_nobody_knows_is_found_once() -> None:
    known, workers = KnownScores(), [Worker(), Worker()]
    for worker in workers:
        done(known, worker, B, A)  # the incumbent is of an interrupted session
    assert [worker.lacked for worker in workers] == [[A], []]


def test_the_incumbent_is_kept_and_others_go() -> None:
    known, worker = KnownScores(), Worker()
    done(known, worker, A, None)
    for number in range(2 * MOST):
        done(known, worker, (number, 0, 0), A)
    held: Mapping[Widths, SampleScores] = known._by_widths
    assert A in held and len(held) == MOST
    other = Worker()
    done(known, other, B, A)
    assert other.lacked == []
