"""The run-off: the best candidates, built with care and judged on fresh images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.bench import Bench
from autoprune.errors import ModelError, RewardError, first_line
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.progress import Progress
from autoprune.strategy import Trial

# Best trials that are scored again, on images that the search did not see. The thousand images of a
# search tell the best few apart badly: among good candidates for ResNet-20 their KL goes together
# with that after sequential repair on other images by 0.5 only.
FINALISTS = 8


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


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    reward: Reward,
    progress: Progress,
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    The first is repaired in both ways, the others in the way that was better: sequential
    reconstruction is better by far with enough calibration data, and can be worse with little. One
    that fails drops out, and none is begun after the deadline (`time.monotonic` seconds) once there
    is a best.

    Raises:
        ModelError: all fail.
    """
    best: Finalist | None = None
    highest, reason = -math.inf, ""
    kinds, forwards = tuple(bench.contests), list[int]()
    most = len(trials) + len(kinds) - 1
    for trial in trials:
        for kind in kinds:
            if best is not None and time.monotonic() >= deadline:
                continue
            forwards.append(bench.final_forwards[kind])
            try:
                network, measurement = bench.contests[kind].build(trial.candidate.widths)
                value = reward(measurement)
            except Exception as error:  # out of memory, or the user's own code
                name = "" if isinstance(error, RewardError) else f"{type(error).__name__}: "
                reason = f"{name}{first_line(error)}"
                progress.note(f"a finalist drops out: {reason}")
                continue
            if value > highest:
                best, highest = Finalist(measurement, network, kind), value
            progress.step("finalists", len(forwards), max(most, len(forwards)))
        kinds = kinds if best is None else (best.reconstruction,)
    if best is None:
        raise ModelError(
            f"every finalist failed on the selection images, the last one because {reason}; the "
            "trials are kept: resume the run when the cause is mended."
        )
    if time.monotonic() >= deadline and len(forwards) < most:
        progress.note(f"the time is over: {len(forwards)} of {most} finalists judged")
    return _on_selection(replace(best, forwards=tuple(forwards)), bench)


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
