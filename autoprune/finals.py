"""The run-off: the best candidates, built with care and judged on fresh images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.bench import QUICK, Bench
from autoprune.errors import ModelError, RewardError, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.progress import Progress
from autoprune.strategy import Trial

# Best trials that are looked at again, on images that the search did not see. The thousand images
# of a search tell the best few apart badly: among good candidates for ResNet-20 their KL goes
# together with that after sequential repair on other images by 0.5 only.
CONTENDERS = 24
# Of those that a quick sequential repair has sifted, so many are repaired thoroughly.
SIFTED = 4
# Finalists where there is no such repair, or it is no better than the judge's.
UNSIFTED = 8


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and judged on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        reconstruction: how it was repaired, "sequential" or the judge's name.
        forwards: samples that each judging of it and of those beside it ran through networks.
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str
    forwards: tuple[int, ...] = ()


class _Jury:
    """Builds and judges contenders one after the other, and counts what that takes.

    Attributes:
        forwards: samples that each judging ran through networks.
        reason: why the last one failed, if one did.
    """

    def __init__(
        self, bench: Bench, reward: Reward, progress: Progress, deadline: float, most: int
    ) -> None:
        self._bench = bench
        self._reward = reward
        self._progress = progress
        self._deadline = deadline
        self._most = most
        self.forwards: list[int] = []
        self.reason = ""

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline

    def judge(self, trial: Trial, kind: str) -> tuple[float, Finalist] | None:
        """Return a contender of one kind of repair and its value; None if it fails."""
        self.forwards.append(self._bench.final_forwards[kind])
        try:
            network, measurement = self._bench.contests[kind].build(trial.candidate.widths)
            value = self._reward(measurement)
        except Exception as error:  # out of memory, or the user's own code
            name = "" if isinstance(error, RewardError) else f"{type(error).__name__}: "
            self.reason = f"{name}{first_line(error)}"
            self._progress.note(f"a finalist drops out: {self.reason}")
            return None
        done = len(self.forwards)
        self._progress.step("finalists", done, max(self._most, done))
        return value, Finalist(measurement, network, kind)


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    reward: Reward,
    progress: Progress,
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Many are repaired quickly, and the best of them thoroughly; where a quick repair is no better
    than the judge's, the first few thoroughly at once. Of the first finalist the quicker repair is
    judged as well, and all others get the way that was better: sequential reconstruction is better
    by far with enough calibration data, and can be worse with little. One that fails drops out, and
    none is begun after the deadline (`time.monotonic` seconds) once there is a best.

    Raises:
        ModelError: all fail.
    """
    jury = _Jury(bench, reward, progress, deadline, len(trials) + SIFTED + 2)
    finalists, kinds = _sift(trials, bench, jury)
    best: Finalist | None = None
    highest = -math.inf
    for number, trial in enumerate(finalists):
        for kind in kinds:
            if best is not None and jury.late:
                progress.note(f"the time is over: {number} of {len(finalists)} finalists judged")
                return _on_selection(replace(best, forwards=tuple(jury.forwards)), bench)
            found = jury.judge(trial, kind)
            if found is not None and found[0] > highest:
                highest, best = found
        kinds = kinds if best is None else (best.reconstruction,)
    if best is None:
        raise ModelError(
            f"every finalist failed on the selection images, the last one because {jury.reason}; "
            "the trials are kept: resume the run when the cause is mended."
        )
    return _on_selection(replace(best, forwards=tuple(jury.forwards)), bench)


def _sift(
    trials: Sequence[Trial], bench: Bench, jury: _Jury
) -> tuple[Sequence[Trial], tuple[str, ...]]:
    """Return the finalists, best first, and how they are repaired.

    Where a quick repair beats the judge's own, these are the best few after it.
    """
    judges, *_ = bench.contests
    unsifted = trials[:UNSIFTED], tuple(kind for kind in bench.contests if kind != QUICK)
    if QUICK not in bench.contests or len(trials) <= SIFTED or jury.late:
        return unsifted
    own, quick = jury.judge(trials[0], judges), jury.judge(trials[0], QUICK)
    if own is None or quick is None or quick[0] <= own[0]:
        return unsifted
    values = {0: quick[0]}
    for number, trial in enumerate(trials[1:], start=1):
        if jury.late:
            break
        found = jury.judge(trial, QUICK)
        if found is not None:
            values[number] = found[0]
    ranked = sorted(values, key=lambda number: -values[number])
    return [trials[number] for number in ranked[:SIFTED]], (QUICK, "sequential")


def _on_selection(finalist: Finalist, bench: Bench) -> Finalist:
    """Return the finalist with its measurement on the selection split alone."""
    if bench.contests is bench.finals:
        return finalist
    evaluator = bench.finals[finalist.reconstruction]
    try:
        alone = evaluator.judge(finalist.network, finalist.measurement.widths)
    except Exception as error:  # out of memory
        raise ModelError(
            f"the winner cannot be scored on the selection images ({type(error).__name__}: "
            f"{first_line(error)}); the trials are kept: resume the run when the cause is mended."
        ) from error
    forwards = (*finalist.forwards, alone.scores.samples)
    return replace(finalist, measurement=alone, forwards=forwards)
