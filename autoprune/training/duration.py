"""How long a training run is, and its learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Duration:
    """When a run ends: after a number of steps, or of seconds.

    Attributes:
        steps: number of steps; None for no limit. Runs with a limit of steps alone are repeatable.
        seconds: time of training, validation included, however often it was resumed; None for no
            limit.
    """

    steps: int | None = None
    seconds: float | None = None

    def completed(self, steps: int, seconds: float) -> float:
        """Return the completed fraction of the run, which ends at 1."""
        shares = [steps / self.steps] if self.steps else []
        shares += [seconds / self.seconds] if self.seconds else []
        return max(shares)


def learning_rate(completed: float, warm_up: float) -> float:
    """Return the learning rate as a fraction of its peak: linear warm-up, then half a cosine.

    Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts and with a minimum of zero.

    Args:
        completed: completed fraction of the run.
        warm_up: fraction of the run in which the rate rises.
    """
    if completed < warm_up:
        return completed / warm_up
    left = (min(completed, 1.0) - warm_up) / (1 - warm_up)
    return (1 + math.cos(math.pi * left)) / 2
