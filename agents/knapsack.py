"""Widths of least summed loss by measured curves, whose scales learn from every candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autoprune.agents.base import SearchProblem
from autoprune.agents.tools.allocation import allocate, by_greed, parts
from autoprune.agents.tools.loss_curves import Curve, loss_curves, plan_probes
from autoprune.agents.tools.scripted import CourseStrategy
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate

# Part of the trials that may be probes.
PROBES = 0.25
# Standard deviation of a scale before anything is known, as a share of the mean scale.
DOUBT = 0.5
# Standard deviation of what the sum of curves cannot explain, as a share of the loss.
MISFIT = 0.05
# The least loss counts as at least this share of the expected one: it may be zero.
SMALLEST = 0.1
# Losses of groups alone that are no more than this share of the loss together count for none.
NOTHING = 1e-12
# Draws that may lead to known widths, before the search ends.
ATTEMPTS = 20


class KnapsackStrategy(CourseStrategy):
    """Probes measure what each group's cuts lose alone; then the least sum is asked for.

    Groups that are cut together lose more or less than the sum of what they lose alone. So the
    loss is modelled as a sum of curves times unknown scales, one per group, of which every
    evaluated candidate is a linear measurement (Bayesian linear regression). Each further trial
    draws scales from what is known of them and asks for the best widths by these (Thompson 1933):
    the more is known, the more alike the draws, and the nearer their candidates to the best.
    """

    name: ClassVar[str] = "knapsack"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._random = np.random.default_rng(problem.seed)

    def _course(self) -> Iterator[list[Candidate]]:
        # A search that is cut short among the probes has something to hand over.
        uniform = self.problem.projection.uniform()
        # Losses are counted from here.
        dense = Candidate(self.problem.space.sizes, "probe")
        yield [Candidate(uniform), dense, *plan_probes(self.problem, PROBES)]
        curves = loss_curves(self.problem, self._values)
        start = by_greed(self.problem.projection, curves)
        asked, new = [uniform], [allocate(self.problem.projection, curves, start)]
        while new:
            asked += new
            yield [Candidate(widths) for widths in new]
            new = self._draw(curves, asked)

    def _draw(self, curves: Sequence[Curve], asked: Sequence[Widths]) -> list[Widths]:
        """Return as many new widths as can be evaluated at once; fewer if draws lead to no more."""
        new: list[Widths] = []
        for _ in range(self.problem.workers):
            if (widths := self._next(curves, [*asked, *new])) is None:
                break
            new.append(widths)
        return new

    def _next(self, curves: Sequence[Curve], asked: Sequence[Widths]) -> Widths | None:
        """Return widths that are best by scales drawn from what the asked ones taught.

        None if all draws lead to known ones.
        """
        taught = [widths for widths in asked if widths in self._values]
        features = np.array([parts(self.problem.space, curves, widths) for widths in taught])
        values = np.array([self._values[widths] for widths in taught])
        losses = max(self._values.values(), default=0.0) - values
        belief = learn(features.reshape(-1, len(curves)), losses)
        start = taught[int(losses.argmin())] if taught else asked[0]
        for attempt in range(ATTEMPTS):
            scales = belief.draw(self._random, 1.5**attempt)
            scaled = [scale * curve for scale, curve in zip(scales, curves, strict=True)]
            widths = allocate(self.problem.projection, scaled, start)
            if widths not in asked:
                return widths
        return None


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution of the curves' scales.

    Attributes:
        mean: (groups,).
        root: (groups, groups), times its transpose it is the covariance.
    """

    mean: npt.NDArray[np.float64]
    root: npt.NDArray[np.float64]

    def draw(self, random: np.random.Generator, spread: float) -> npt.NDArray[np.float64]:
        """Return scales, none of them nearly or below zero."""
        drawn = self.mean + spread * self.root @ random.normal(size=len(self.mean))
        return np.asarray(np.maximum(drawn, 0.05 * max(float(self.mean.mean()), 1e-300)))


def learn(features: npt.NDArray[np.float64], losses: npt.NDArray[np.float64]) -> Belief:
    """Return what candidates teach about the scales: Bayesian linear regression.

    Args:
        features: (candidates, groups), loss of each group alone.
        losses: (candidates,), of all together.
    """
    groups = features.shape[1]
    total, alone = float(losses.sum()), float(features.sum())
    # Cuts that cost nothing alone, or gain something, say nothing of the scale.
    usual = total / alone if total > 0 and alone > NOTHING * total else 1.0
    noise = 1.0
    if len(losses):
        expected = usual * float(features.sum(1).mean())
        noise = MISFIT * max(float(losses.min()), SMALLEST * expected, 1e-12)
    precision = np.eye(groups) / (DOUBT * usual) ** 2 + features.T @ features / noise**2
    covariance = np.linalg.inv(precision)
    mean = usual + covariance @ features.T @ (losses - usual * features.sum(1)) / noise**2
    return Belief(mean, np.linalg.cholesky((covariance + covariance.T) / 2))
