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
        covariance: (parameters, parameters), symmetric and positive definite.
    """

    mean: Floats
    covariance: Floats

    def draw(self, random: np.random.Generator, spread: float = 1.0) -> Floats:
        """Return parameters drawn at random, (parameters,).

        Args:
            random: draws them.
            spread: factor on the standard deviations.
        """
        root = np.linalg.cholesky(self.covariance)
        drawn: Floats = self.mean + spread * root @ random.standard_normal(len(self.mean))
        return drawn

    def deviations(self, directions: Floats) -> Floats:
        """Return standard deviations (rows,) along directions (rows, parameters)."""
        variances = np.einsum("ij,jk,ik->i", directions, self.covariance, directions)
        deviations: Floats = np.sqrt(variances)
        return deviations
