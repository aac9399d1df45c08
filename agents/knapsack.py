"""Widths of least summed loss by measured curves, whose scales learn from every candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count, Positive, Share
from autoprune.agents.tools.allocation import AllocationConfig, allocate
from autoprune.agents.tools.gaussian import Gaussian
from autoprune.agents.tools.loss_curves import loss_curves, plan_probes
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves, least_sum
from autoprune.study.trial import Candidate

# Losses of groups alone that are no more than this share of the loss together count for none.
NOTHING = 1e-12


@dataclass(frozen=True)
class KnapsackConfig(AllocationConfig):
    """Options of the knapsack search, and of how a knapsack is solved.

    Attributes:
        probes: share of the trials that may be probes.
        doubt: standard deviation of a scale before anything is known, as a share of the mean scale.
        misfit: standard deviation of what the sum of curves cannot explain, as a share of the loss.
        smallest_loss: share of the expected loss that the least one counts as at least; it may be
            zero.
        attempts: draws that may lead to known widths before the search ends.
    """

    probes: Share = 0.25
    doubt: Positive = 0.5
    misfit: Positive = 0.05
    smallest_loss: Positive = 0.1
    attempts: Count = 20


class KnapsackStrategy(ScriptedStrategy):
    """Probes measure what each group's cuts lose alone; then the least sum is proposed.

    Groups that are cut together lose more or less than the sum of what they lose alone. So the
    loss is modelled as a sum of curves times unknown scales, one per group, of which every
    evaluated candidate is a linear measurement (Bayesian linear regression). Each further trial
    draws scales from what is known of them and proposes the best widths by these (Thompson 1933):
    the more is known, the more alike the draws, and the nearer their candidates to the best.
    """

    name = "knapsack"
    config = KnapsackConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with the probes."""
        super().start(problem)
        self._random = np.random.default_rng(problem.seed)

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the uniform candidate with the probes, then the best widths by drawn scales."""
        # A search that is cut short among the probes has something to hand over.
        uniform = self.problem.projection.uniform()
        # Losses are counted from here.
        dense = Candidate(self.problem.space.sizes, "probe")
        yield [Candidate(uniform), dense, *plan_probes(self.problem, self.config.probes)]
        curves = loss_curves(self.problem, self._values)
        start = least_sum(self.problem.projection, curves)
        best = allocate(self.problem.projection, curves, start, self.config)
        asked, new = [uniform], [best]
        while new:
            asked += new
            yield [Candidate(widths) for widths in new]
            new = self._draw(curves, asked)

    def _draw(self, curves: Curves, asked: Sequence[Widths]) -> list[Widths]:
        """Return as many new widths as can be evaluated at once; fewer if draws lead to no more."""
        new: list[Widths] = []
        for _ in range(self.problem.at_once):
            if (widths := self._next(curves, [*asked, *new])) is None:
                break
            new.append(widths)
        return new

    def _next(self, curves: Curves, asked: Sequence[Widths]) -> Widths | None:
        """Return the best widths by scales that are drawn from what is known of them.

        None if all draws lead to known widths.
        """
        measured = [widths for widths in asked if widths in self._values]
        features = np.array([[c[w] for c, w in zip(curves, m, strict=True)] for m in measured])
        values = np.array([self._values[widths] for widths in measured])
        losses = max(self._values.values(), default=0.0) - values
        posterior = learn(features.reshape(-1, len(curves)), losses, self.config)
        start = measured[int(losses.argmin())] if measured else asked[0]
        for attempt in range(self.config.attempts):
            scales = draw_scales(posterior, self._random, 1.5**attempt)
            scaled = [scale * curve for scale, curve in zip(scales, curves, strict=True)]
            widths = allocate(self.problem.projection, scaled, start, self.config)
            if widths not in asked:
                return widths
        return None


def draw_scales(posterior: Gaussian, random: np.random.Generator, spread: float) -> Floats:
    """Return scales drawn at random, none of them nearly or below zero."""
    least = 0.05 * max(float(posterior.mean.mean()), 1e-300)
    return np.asarray(np.maximum(posterior.draw(random, spread), least))


def learn(features: Floats, losses: Floats, config: KnapsackConfig) -> Gaussian:
    """Return the posterior of the scales by Bayesian linear regression.

    Args:
        features: (candidates, groups), loss of each group alone.
        losses: (candidates,), of all together.
        config: prior and noise.
    """
    groups = features.shape[1]
    total, alone = float(losses.sum()), float(features.sum())
    # Cuts that cost nothing alone, or gain something, say nothing of the scale.
    usual = total / alone if total > 0 and alone > NOTHING * total else 1.0
    noise = 1.0
    if len(losses):
        expected = usual * float(features.sum(1).mean())
        least = max(float(losses.min()), config.smallest_loss * expected, 1e-12)
        noise = config.misfit * least
    precision = np.eye(groups) / (config.doubt * usual) ** 2 + features.T @ features / noise**2
    covariance = np.linalg.inv(precision)
    mean = usual + covariance @ features.T @ (losses - usual * features.sum(1)) / noise**2
    return Gaussian(mean, np.linalg.cholesky((covariance + covariance.T) / 2))
