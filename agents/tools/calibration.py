"""Expected losses in the unit of the reward, calibrated by what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Positive
from autoprune.agents.tools.gaussian import Gaussian
from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves, expected_losses


@dataclass(frozen=True)
class CalibrationConfig:
    """How expected losses are calibrated by what was measured.

    Attributes:
        misfit: standard deviation of a measurement at median distance around the model, relative to
            the error that was moved; it grows with the root of that error.
        bend: standard deviation between one group's scales above and below the centre; 1 is that of
            a scale.
        least_scale: of a group, relative to the mean one: no error comes for free.
    """

    misfit: Positive = 0.5
    bend: Positive = 1.0
    least_scale: Positive = 0.02


class Calibration:
    """Estimates what the units of every group are worth in reward, around any centre of the search.

    The expected losses say how a group's loss grows as its units go, but not by what factor it
    counts for the reward after repair. So the model is

        value(centre) − value(w) = Σ_g scale_g · (loss_g(w_g) − loss_g(centre_g)),

    with one scale for widths below the centre and another, alike, for those above it. They are
    fitted by Bayesian linear regression to everything that was measured, nearby widths counting
    most.
    """

    def __init__(self, problem: SearchProblem, config: CalibrationConfig) -> None:
        self._config = config
        self._shapes = expected_losses(problem.rankings)

    def curves(
        self,
        centre: Widths,
        values: Mapping[Widths, float],
        random: np.random.Generator | None = None,
    ) -> Curves:
        """Return the loss of reward by width of every group; zero at the centre's width.

        Args:
            centre: where the search stands; if it was not measured, nothing can be calibrated.
            values: measured rewards.
            random: draws the scales from their posterior, so that a group of which little is known
                gets its chance; None takes the mean.
        """
        rises = [shape - shape[w] for shape, w in zip(self._shapes, centre, strict=True)]
        unit, fitted = self._fit(rises, centre, values)
        scales = fitted.mean if random is None else fitted.draw(random)
        below, above = np.split(unit * scales.clip(self._config.least_scale), 2)
        return [
            np.where(rise > 0, rise * b, rise * a)
            for rise, b, a in zip(rises, below, above, strict=True)
        ]

    def _fit(
        self, rises: Curves, centre: Widths, values: Mapping[Widths, float]
    ) -> tuple[float, Gaussian]:
        """Return the mean scale, in reward per loss, and the posterior of all scales in its unit.

        The scales are (2 x groups,): first for widths below the centre, then above it.
        """
        others = [widths for widths in values if centre in values and widths != centre]
        moves = np.array([[rise[w] for rise, w in zip(rises, o, strict=True)] for o in others])
        moves = moves.reshape(len(others), len(rises))
        losses = np.array([values[centre] - values[o] for o in others])
        sizes = np.abs(moves).sum(axis=1)
        apart = sizes > 0
        moves, losses, sizes = moves[apart], losses[apart], sizes[apart]
        unit = float(np.abs(losses) @ sizes / (sizes @ sizes)) if len(sizes) else 1.0
        unit = unit or 1.0
        precision = _prior_precision(len(rises), self._config.bend)
        wanted: Floats = precision @ np.ones(len(precision))
        if len(sizes):
            # A row says what a move costs per error; near moves are known more exactly.
            weights = np.sqrt(np.median(sizes) / sizes) / self._config.misfit
            signed = np.concatenate([moves.clip(min=0), moves.clip(max=0)], axis=1)
            rows = signed * (weights / sizes)[:, None]
            precision += rows.T @ rows
            wanted += rows.T @ (losses * weights / (unit * sizes))
        mean = np.linalg.solve(precision, wanted).astype(np.float64)
        return unit, Gaussian(mean, np.linalg.inv(np.linalg.cholesky(precision)).T)


def _prior_precision(groups: int, bend: float) -> Floats:
    """Return the inverse covariance of scales around 1, the two of a group alike."""
    eye = np.eye(groups)
    return np.eye(2 * groups) + np.block([[eye, -eye], [-eye, eye]]) / bend**2
