"""A normal distribution of what a strategy has learnt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.arrays import Floats


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The posterior of a Bayesian regression.

    Attributes:
        mean: (parameters,).
        root: a square root R of the covariance R Rᵀ, (parameters, parameters).
    """

    mean: Floats
    root: Floats

    def draw(self, random: np.random.Generator, spread: float = 1.0) -> Floats:
        """Return parameters drawn at random, (parameters,).

        Args:
            random: draws them.
            spread: factor on the standard deviations.
        """
        drawn: Floats = self.mean + spread * self.root @ random.standard_normal(len(self.mean))
        return drawn

    def deviations(self, directions: Floats) -> Floats:
        """Return standard deviations (rows,) along directions (rows, parameters)."""
        deviations: Floats = np.linalg.norm(directions @ self.root, axis=1)
        return deviations
