"""The run-off: the best candidates, built with care and judged on fresh images."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from torch import nn

from autoprune.core.policy import Widths
from autoprune.core.progress import Progress
from autoprune.engine.evaluators import QUICK, THOROUGH, Bench
from autoprune.errors import AutopruneError, ModelError, first_line, user_code
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.study.trial import Trial

# Best trials that are looked at again, on images that the search did not see. The thousand images
# of a search tell the best few apart badly: among good candidates for ResNet-20 their KL goes
# together with that after sequential repair on other images by 0.5 only.
CONTENDERS = 24
# Of those that a quick repair has sifted, so many are repaired thoroughly.
SIFTED = 4
# Finalists where there is no quick repair, or it is no better than the judge's.
UNSIFTED = 8
# How many are looked at again where candidates were repaired as those to be sifted are, and how far
# apart their keep ratios are at least: neighbours are as good as each other, or as overrated.
FEWER, APART = 12, 0.03


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and judged on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        reconstruction: how it was repaired, one of the bench's kinds.
        forwards: samples that each judging of it and of those beside it ran through networks.
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str
    forwards: tuple[int, ...] = ()


class _Jury:
    """Builds and judges candidates one after the other; each kind of repair of one only once.

    Attributes:
        best: of those judged; None while there is none. No other network is kept.
        forwards: samples that each judging ran through networks.
        planned: judgings there will be if all goes well.
        reason: why the last one failed, if one did.
    """

    def __init__(self, bench: Bench, reward: Reward, progress: Progress, deadline: float) -> None:
        self._bench = bench
        self._reward = reward
        self._progress = progress
        self._deadline = deadline
        self._halfway = (time.monotonic() + deadline) / 2
        self._values: dict[tuple[Widths, str], float | None] = {}
        self.best: Finalist | None = None
        self.forwards: list[int] = []
        self.planned = 0
        self.reason = ""

    @property
    def late(self) -> bool:
        """Whether the time is over, and there is something to hand over."""
        return self.best is not None and time.monotonic() >= self._deadline

    @property
    def half_over(self) -> bool:
        """Whether half of the time that there was at the beginning is over."""
        return time.monotonic() >= self._halfway

    def note(self, text: str) -> None:
        """Tell the user."""
        self._progress.note(text)

    def judge(self, trial: Trial, kind: str) -> float | None:
        """Return a candidate's value after one kind of repair; None if it fails."""
        key = trial.candidate.widths, kind
        if key not in self._values:
            self.forwards.append(self._bench.final_forwards[kind])
            self._values[key] = self._judged(*key)
            done = len(self.forwards)
            self._progress.step("finalists", done, max(self.planned, done))
        return self._values[key]

    def _judged(self, widths: Widths, kind: str) -> float | None:
        try:
            with user_code(ModelError, passes=(AutopruneError,)):  # out of memory, for instance
                network, measurement = self._bench.contests[kind].build(widths)
                value = self._reward(measurement)
        except AutopruneError as error:
            self.reason = first_line(error)
            self.note(f"a finalist drops out: {self.reason}")
            return None
        known = [other for other in self._values.values() if other is not None]
        if self.best is None or value > max(known):
            self.best = Finalist(measurement, network, kind)
        return value


def shortlist(
    trials: Sequence[Trial], bench: Bench, always: Collection[Widths] = ()
) -> Sequence[Trial]:
    """Return the contenders of the run-off.

    Where candidates were repaired alone, one by one, many are looked at again; where they were
    repaired as a whole, fewer that are unlike each other.

    Args:
        trials: with a value, best first.
        bench: who judged them.
        always: widths that are among them if they were measured.
    """
    if bench.judge_name != QUICK:
        return trials[:CONTENDERS]
    chosen: list[Trial] = []
    rest: list[Trial] = []
    for trial in trials:
        near = any(_distance(trial, other) < APART for other in chosen)
        (rest if near or len(chosen) == FEWER else chosen).append(trial)
    known = [trial for trial in rest if trial.candidate.widths in always]
    return [*chosen, *rest[: FEWER - len(chosen)], *known]


def _distance(trial: Trial, other: Trial) -> float:
    """Return the mean difference of the logarithms of what groups keep."""
    widths = zip(trial.candidate.widths, other.candidate.widths, strict=True)
    return fmean(abs(math.log(a / b)) for a, b in widths)


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    reward: Reward,
    progress: Progress,
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Many are repaired quickly, and the best of them thoroughly; where a quick repair is no better
    than the judge's, the first few thoroughly at once. The first finalist shows which of its
    repairs is the better one, and the others get that: sequential reconstruction is better by far
    with enough calibration data, and can be worse with little. One that fails drops out, and none
    is begun after the deadline (`time.monotonic` seconds) once there is a best.

    Raises:
        ModelError: all fail.
    """
    jury = _Jury(bench, reward, progress, deadline)
    finalists, kinds = _sift(trials, bench, jury)
    jury.planned = len(jury.forwards) + len(finalists)
    for number, trial in enumerate(finalists):
        values = {kind: jury.judge(trial, kind) for kind in kinds if not jury.late}
        known = {kind: value for kind, value in values.items() if value is not None}
        if jury.late:
            jury.note(
                f"the time is over: {number + bool(known)} of {len(finalists)} finalists judged"
            )
            break
        kinds = (max(known, key=known.__getitem__),) if known else kinds
    if jury.best is None:
        raise ModelError(
            f"every finalist failed on the selection images, the last one because {jury.reason}; "
            "the trials are kept: resume the run when the cause is mended."
        )
    return _on_selection(replace(jury.best, forwards=tuple(jury.forwards)), bench)


def _sift(
    trials: Sequence[Trial], bench: Bench, jury: _Jury
) -> tuple[Sequence[Trial], tuple[str, ...]]:
    """Return the finalists, best first, and how they may be repaired.

    Where a quick repair beats the judge's own, these are the best few after it, of as many as half
    of the time allows.
    """
    own, *_ = bench.contests
    unsifted = trials[:UNSIFTED], (own, THOROUGH)
    if QUICK not in bench.contests or len(trials) <= SIFTED or jury.half_over:
        return unsifted
    jury.planned = (own != QUICK) + len(trials) + SIFTED
    before, after = jury.judge(trials[0], own), jury.judge(trials[0], QUICK)
    if after is None or (own != QUICK and before is not None and after <= before):
        return unsifted
    values = {0: after}
    for number, trial in enumerate(trials[1:], start=1):
        if jury.half_over:
            jury.note(f"half of the time is over: {number} of {len(trials)} candidates sifted")
            break
        value = jury.judge(trial, QUICK)
        if value is not None:
            values[number] = value
    ranked = sorted(values, key=lambda number: -values[number])
    return [trials[number] for number in ranked[:SIFTED]], (QUICK, THOROUGH)


def _on_selection(finalist: Finalist, bench: Bench) -> Finalist:
    """Return the finalist with its measurement on the selection split alone."""
    if bench.contests is bench.finals:
        return finalist
    evaluator = bench.finals[finalist.reconstruction]
    with user_code(_not_scored):  # out of memory
        alone = evaluator.judge(finalist.network, finalist.measurement.widths)
    forwards = (*finalist.forwards, alone.scores.samples)
    return replace(finalist, measurement=alone, forwards=forwards)


def _not_scored(reason: str) -> ModelError:
    return ModelError(
        f"the winner cannot be scored on the selection images ({reason}); the trials are kept: "
        "resume the run when the cause is mended."
    )
