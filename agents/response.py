"""What the reward is expected to be at any widths, learnt from those that were measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from autoprune.policy import Widths
from autoprune.search_spaces.descent import error_curves
from autoprune.strategy import SearchProblem

Floats = npt.NDArray[np.float64]

# Measured widths that a regression needs.
FEWEST = 3


class Response:
    """Bayesian linear regression of the reward on what every group keeps.

    A group counts with its reconstruction error, the logarithm of its keep ratio and the square of
    that, and all groups together with the logarithm of their summed error: before much is known, a
    group's error is as bad as any other's, and each answer tells how much worse or better. How
    strongly coefficients are pulled to zero is learnt, too (MacKay 1992, "Bayesian Interpolation").
    Of rewards below zero, such as minus the KL, it is the logarithm that is learnt: what groups
    lose multiplies more than it adds up.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._errors = error_curves(problem.rankings)
        self._sizes = np.array(problem.space.sizes, dtype=float)

    def rank(
        self, widths: Sequence[Widths], values: Mapping[Widths, float], hope: float = 0.0
    ) -> list[Widths]:
        """Return widths by falling promise; as they are while too little is known.

        Args:
            widths: to rank.
            values: measured rewards.
            hope: standard deviations of what is not known that are counted in favour.
        """
        if not widths or len(values) < FEWEST or len(set(values.values())) == 1:
            return list(widths)
        mean, deviation = self._expected(widths, values)
        return [widths[i] for i in np.argsort(-(mean + hope * deviation), kind="stable")]

    def _expected(
        self, widths: Sequence[Widths], values: Mapping[Widths, float]
    ) -> tuple[Floats, Floats]:
        """Return means and standard deviations, on the scale that is learnt."""
        from sklearn.linear_model import BayesianRidge

        known, wanted = self._features(list(values)), self._features(widths)
        groups = len(self._errors)
        columns = [_alike(*pair, groups) for pair in zip(known, wanted, strict=True)]
        rows, new = (np.concatenate(own, axis=1) for own in zip(*columns, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not converged is good enough
            model = BayesianRidge().fit(rows, _scaled(list(values.values())))
        mean, deviation = model.predict(new, return_std=True)
        return mean, deviation

    def _features(self, widths: Sequence[Widths]) -> list[Floats]:
        """Return what widths are judged by, kind by kind, (widths, groups or 1)."""
        rows = np.array(widths)
        errors = np.stack([curve[rows[:, g]] for g, curve in enumerate(self._errors)], axis=1)
        logs = np.log(rows / self._sizes)
        total = np.log(errors.sum(axis=1, keepdims=True) + 1e-12)
        return [errors, logs, logs**2, total]


def _alike(known: Floats, wanted: Floats, groups: int) -> tuple[Floats, Floats]:
    """Return features of one kind on one scale, which leaves more to those that vary more.

    What there is once for all groups weighs as much as all of theirs.
    """
    weight = np.sqrt(groups / known.shape[1]) / (known.std(0).mean() + 1e-9)
    return weight * (known - known.mean(0)), weight * (wanted - known.mean(0))


def _scaled(values: Sequence[float]) -> Floats:
    rewards = np.array(values)
    return -np.log(-rewards) if (rewards < 0).all() else rewards
