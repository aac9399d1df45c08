"""The scores of candidates: what they are called, and which of two is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from autoprune.evaluation.measurement import Scores
from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.wording import number, percent
from autoprune.study.trial import Trial


@dataclass(frozen=True)
class ScoreKind:
    """One of the scores of a candidate.

    Attributes:
        title: of an axis, with the unit.
        of: the score; None where there is none.
        is_loss: whether less is better.
        shown: one score for people.
    """

    title: str
    of: Callable[[Scores], float | None]
    is_loss: bool
    shown: Callable[[float], str]

    def best(self, values: Sequence[float]) -> float:
        """Return the better one of some scores."""
        return min(values) if self.is_loss else max(values)

    def of_trial(self, trial: Trial) -> float | None:
        """Return the score of a trial, None if it has none, or one that is not finite."""
        found = None if trial.measurement is None else self.of(trial.measurement.scores)
        return found if found is not None and math.isfinite(found) else None


KINDS = (
    ScoreKind("score", lambda scores: scores.custom, False, partial(number, digits=4)),
    ScoreKind("KL to the dense network, nats", lambda scores: scores.kl, True, number),
    ScoreKind("top-1 accuracy", lambda scores: scores.top1, False, percent),
)
"""The scores, the one that the search goes by first."""


def kinds_of(runs: Sequence[RunRecord]) -> list[ScoreKind]:
    """Return the kinds of scores that some trial of every run has."""
    return [
        kind
        for kind in KINDS
        if all(any(kind.of_trial(trial) is not None for trial in run.trials) for run in runs)
    ]


def frontier(points: Sequence[tuple[float, float]], is_loss: bool) -> list[tuple[float, float]]:
    """Return the points (cost, score) than which no cheaper or equally dear one is better.

    They are in the order of rising cost.
    """
    sign = 1.0 if is_loss else -1.0
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if not front or sign * score < sign * front[-1][1]:
            front.append((cost, score))
    return front


def best_so_far(trials: Sequence[Trial], kind: ScoreKind) -> list[tuple[int, float]]:
    """Return (evaluations, best score) wherever a candidate was better than those before it.

    Probes, which may exceed the budget, do not count. The last pair is of all evaluations.
    """
    found: list[tuple[int, float]] = []
    for count, trial in enumerate(trials, 1):
        score = kind.of_trial(trial)
        if score is None or trial.candidate.kind != "candidate":
            continue
        if not found or kind.best([score, found[-1][1]]) != found[-1][1]:
            found.append((count, score))
    if found and found[-1][0] < len(trials):
        found.append((len(trials), found[-1][1]))
    return found
