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

# Best trials that are scored again, on images that the search did not see.
FINALISTS = 3


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and judged on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        reconstruction: how it was repaired, "sequential" or the judge's name.
        judged: how every network was repaired that it was compared with, itself included.
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str
    judged: tuple[str, ...] = ()


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    reward: Reward,
    progress: Progress,
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Each is repaired in both ways: sequential reconstruction is better by far with enough
    calibration data, and can be worse with little. One that fails drops out, and none is begun
    after the deadline (`time.monotonic` seconds) once there is a best.

    Raises:
        ModelError: all fail.
    """
    best: Finalist | None = None
    highest, reason = -math.inf, ""
    contests = [(trial, *final) for trial in trials for final in bench.finals.items()]
    judged: list[str] = []
    for trial, reconstruction, evaluator in contests:
        if best is not None and time.monotonic() >= deadline:
            progress.note(f"the time is over: {len(judged)} of {len(contests)} finalists judged")
            break
        judged.append(reconstruction)
        try:
            network, measurement = evaluator.build(trial.candidate.widths)
            value = reward(measurement)
        except Exception as error:  # out of memory, or the user's own code
            kind = "" if isinstance(error, RewardError) else f"{type(error).__name__}: "
            reason = f"{kind}{first_line(error)}"
            progress.note(f"a finalist drops out: {reason}")
            continue
        if value > highest:
            best, highest = Finalist(measurement, network, reconstruction), value
        progress.step("finalists", len(judged), len(contests))
    if best is None:
        raise ModelError(
            f"every finalist failed on the selection images, the last one because {reason}; the "
            "trials are kept: resume the run when the cause is mended."
        )
    return replace(best, judged=tuple(judged))
