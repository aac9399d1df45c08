"""How long a recovery takes, and its learning rate over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""Number of steps done → completed fraction of the run, which ends at 1."""

# Fraction of the run in which the learning rate rises.
WARM_UP = 0.1


def by_steps(steps: int) -> Schedule:
    """Return the schedule of a run with a given number of steps, which is repeatable."""
    return lambda done: done / steps


def by_clock(seconds: float, clock: Callable[[], float] = time.monotonic) -> Schedule:
    """Return the schedule of a run that starts now and takes a given time.

    Args:
        seconds: duration of the run, however long a step takes.
        clock: current time in seconds.
    """
    began = clock()
    return lambda done: (clock() - began) / seconds


def first_of(*schedules: Schedule) -> Schedule:
    """Return the schedule of a run that ends when the first of several schedules ends."""
    return lambda done: max(schedule(done) for schedule in schedules)


def learning_rate(completed: float) -> float:
    """Return the learning rate as a fraction of its peak: a linear warm-up, then decay to zero.

    Linear decay to zero within a given time comes close to a training many times as long
    (Li et al. 2020, "Budgeted training", equation 3 with p = 1).

    Args:
        completed: completed fraction of the run.
    """
    return max(0.0, min(completed / WARM_UP, (1 - completed) / (1 - WARM_UP)))
