"""What widths are expected to lose, learnt from those that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.agents.config import Count, Positive
from autoprune.agents.tools.gaussian import Gaussian
from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves

# Prior standard deviation of what may be anything.
ANY = 1e3
# No curve bends so much that it hardly rises.
LEAST_POWER = 0.2
# Share of the largest loss that every width is taken to lose.
LEAST = 1e-9
# Share of the median of rewards below zero that is taken for the best of them.
LEAST_REWARD = 1e-3


@dataclass(frozen=True)
class LossModelConfig:
    """How the reward is modelled: standard deviations of the priors and of the noise.

    Attributes:
        scale_deviation: of the logarithm of a group's scale.
        power_deviation: of the power of a group's curve.
        total_power_deviation: of the power of all curves together.
        noise: of a measurement around the model.
        fit_steps: of the fit; one that has not converged is good enough.
    """

    scale_deviation: Positive = 1.0
    power_deviation: Positive = 0.3
    total_power_deviation: Positive = 0.25
    noise: Positive = 0.1
    fit_steps: Count = 30


@dataclass(frozen=True, eq=False)
class FittedLossModel:
    """The fitted model of how the groups' losses add up.

    log loss = c + (1 + p) log Σ_g h_g exp(a_g) (curve_g / h_g)^(1 + b_g), where h_g is the
    curve's value at half of the group.

    Attributes:
        curves: the expected losses, group by group, none of them zero.
        posterior: of c, p, the groups' a and their b, (2 + 2 groups,).
    """

    curves: Curves
    posterior: Gaussian

    def rank(self, widths: Sequence[Widths], optimism: float) -> list[Widths]:
        """Return widths by rising loss.

        Args:
            widths: to rank.
            optimism: standard deviations that are subtracted from the expected log loss.
        """
        expected, slopes = _modelled(self.posterior.mean, *_at(self.curves, widths))
        bounds = expected - optimism * self.posterior.deviations(slopes)
        return [widths[i] for i in np.argsort(bounds, kind="stable")]

    def draw(self, random: np.random.Generator) -> Curves:
        """Return curves drawn from the posterior."""
        scales, powers = self.posterior.draw(random)[2:].reshape(2, -1)
        halves = np.array([curve[len(curve) // 2] for curve in self.curves])
        parts = zip(
            self.curves,
            halves,
            np.exp(scales) * halves,
            np.maximum(1 + powers, LEAST_POWER),
            strict=True,
        )
        return [scale * (curve / half) ** power for curve, half, scale, power in parts]


class LossModel:
    """Bayesian regression of the reward on the expected losses.

    Every group's curve is known up to a factor and a power, and so is their sum. The posterior is
    Gaussian around its maximum (Laplace's approximation; MacKay 2003, "Information Theory,
    Inference, and Learning Algorithms", chapter 27). Of rewards below zero, such as minus the KL,
    it is the logarithm that is modelled, of others they themselves, standardised.
    """

    def __init__(self, curves: Curves, config: LossModelConfig) -> None:
        """Take the loss that is expected of each group alone, in any unit."""
        self._config = config
        losses = [np.maximum(curve, 0.0) for curve in curves]
        least = LEAST * (max(float(loss.max()) for loss in losses) or 1.0)
        self._curves = [loss + least for loss in losses]

    def fit(self, values: Mapping[Widths, float]) -> FittedLossModel:
        """Return the model fitted to some rewards; the prior if there are none."""
        from scipy.optimize import least_squares

        own, each = self._config, np.ones(len(self._curves))
        groups = [*(own.scale_deviation * each), *(own.power_deviation * each)]
        pull = 1 / np.array([ANY, own.total_power_deviation, *groups])
        if len(set(values.values())) < 2:
            return FittedLossModel(self._curves, Gaussian(np.zeros_like(pull), np.diag(1 / pull)))
        lost, wanted = _at(self._curves, list(values)), _losses(list(values.values()))

        def residuals(point: Floats) -> Floats:
            misfit = (_modelled(point, *lost)[0] - wanted) / own.noise
            return np.concatenate([misfit, pull * point])

        def slopes(point: Floats) -> Floats:
            return np.concatenate([_modelled(point, *lost)[1] / own.noise, np.diag(pull)])

        start = np.zeros_like(pull)
        start[0] = np.mean(wanted - _modelled(start, *lost)[0])
        found = least_squares(residuals, start, jac=slopes, max_nfev=own.fit_steps).x
        hessian = slopes(found).T @ slopes(found)
        root = np.linalg.cholesky(np.linalg.inv(hessian))
        return FittedLossModel(self._curves, Gaussian(found, root))


def _at(curves: Curves, widths: Sequence[Widths]) -> tuple[Floats, Floats]:
    """Return log (curve_g / h_g) at some widths, (widths, groups), and log h_g, (groups,)."""
    rows = np.array(widths)
    halves = np.log([curve[len(curve) // 2] for curve in curves])
    lost = np.stack([np.log(curve[rows[:, g]]) for g, curve in enumerate(curves)], axis=1)
    return lost - halves, halves


def _modelled(point: Floats, shares: Floats, halves: Floats) -> tuple[Floats, Floats]:
    """Return log losses, (widths,), and their derivatives by the point, (widths, 2 + 2 groups)."""
    scales, powers = point[2:].reshape(2, -1)
    parts = np.exp(halves + scales + np.maximum(1 + powers, LEAST_POWER) * shares)
    total = parts.sum(axis=1, keepdims=True)
    logs = np.log(total)
    steps = (1 + point[1]) * parts / total
    slopes = np.concatenate([np.ones_like(logs), logs, steps, steps * shares], axis=1)
    return point[0] + (1 + point[1]) * logs[:, 0], slopes


def _losses(rewards: Sequence[float]) -> Floats:
    losses: Floats = -np.array(rewards)
    if (losses > 0).all():
        # One that is all but perfect must not outweigh the others.
        losses = np.log(np.maximum(losses, LEAST_REWARD * np.median(losses)))
    else:
        losses = (losses - losses.mean()) / losses.std()
    return losses
