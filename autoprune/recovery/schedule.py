"""How long a recovery lasts, and its learning rate on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Pace: TypeAlias = Callable[[int], float]
"""Steps done → the share of the run that is over; it ends at 1."""

# Share of the run in which the learning rate rises.
WARM_UP = 0.1


def by_steps(steps: int) -> Pace:
    """Return the pace of a run of so many steps, which two equal runs share."""
    return lambda done: done / steps


def by_clock(seconds: float, clock: Callable[[], float] = time.monotonic) -> Pace:
    """Return the pace of a run that begins now: the schedule fits whatever a step takes."""
    began = clock()
    return lambda done: (clock() - began) / seconds


def first_of(*paces: Pace) -> Pace:
    """Return the pace of a run that ends with the first of several."""
    return lambda done: max(pace(done) for pace in paces)


def rate(share: float) -> float:
    """Return the learning rate at a share of the run, as a share of its peak: up, then down to 0.

    Decay to zero within whatever time there is comes close to a training many times as long
    (Li et al. 2020, "Budgeted training", equation 3 with p = 1).
    """
    return max(0.0, min(share / WARM_UP, (1 - share) / (1 - WARM_UP)))
