"""Truncated-normal exploration around what the actor would do (He et al. 2018, equation 6)."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri


class TruncatedNormal:
    """Actions around the actor's own, within the feasible range; their spread decays.

    An SB3 `ActionNoise` does not know the mean, and a clipped normal would pile up at the ends.
    """

    def __init__(self, first: float, last: float, trials: int, seed: int) -> None:
        """Take the spread σ of the first and of the last trial."""
        self._first, self._last = first, last
        self._trials = max(trials, 1)
        self._random = np.random.default_rng(seed)

    def spread(self, trial: int) -> float:
        """Return σ of a trial: it falls geometrically, and reaches the last one at the end only."""
        done = min(trial / self._trials, 1.0)
        return float(self._first * (self._last / self._first) ** done)

    def draw(self, mean: float, low: float, high: float, spread: float) -> float:
        """Return an action between two bounds, by inverting the distribution function."""
        below, above = ndtr((low - mean) / spread), ndtr((high - mean) / spread)
        drawn = mean + spread * ndtri(self._random.uniform(below, above))
        return float(np.clip(drawn, low, high))
