"""Widths of least summed loss by measured curves, which learn from every candidate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Count, Share
from autoprune.agents.tools.allocation import AllocationConfig, allocate
from autoprune.agents.tools.loss_curves import loss_curves, plan_probes
from autoprune.agents.tools.loss_model import LossModel, LossModelConfig
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import least_sum
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class KnapsackConfig(AllocationConfig, LossModelConfig):
    """Options of the knapsack search, of how a knapsack is solved, and of the model it learns.

    Attributes:
        probes: share of the trials that may be probes.
        attempts: draws that may lead to known widths before the search ends.
    """

    probes: Share = 0.25
    attempts: Count = 20


class KnapsackStrategy(ScriptedStrategy):
    """Probes measure what each group's cuts lose alone; then the least sum is proposed.

    Groups that are cut together lose more or less than the sum of what they lose alone. So the
    curves are corrected by every evaluated candidate (`LossModel`). Each further trial draws curves
    from what is known of them and proposes the best widths by these (Thompson 1933): the more is
    known, the more alike the draws, and the nearer their candidates to the best.
    """

    name = "knapsack"
    config = KnapsackConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with the probes."""
        super().start(problem)
        self._random = np.random.default_rng(problem.seed)

    def batches(self) -> Iterator[list[Candidate]]:
        """Yield the uniform candidate with the probes, then the best widths by drawn curves."""
        projection = self.problem.projection
        # A search that is cut short among the probes has something to hand over.
        uniform = Candidate(projection.uniform())
        # Losses are counted from here.
        dense = Candidate(self.problem.space.sizes, "probe")
        yield [uniform, dense, *plan_probes(self.problem, self.config.probes)]
        curves = loss_curves(self.problem, self._values)
        model = LossModel(curves, self.config)
        new = [allocate(projection, curves, least_sum(projection, curves), self.config)]
        while new:
            yield [Candidate(widths) for widths in new]
            new = self._best_by_draws(model)

    def _best_by_draws(self, model: LossModel) -> list[Widths]:
        """Return as many new widths as can be evaluated at once; fewer if draws lead to no more."""
        projection, own = self.problem.projection, self.config
        dense = max(self._values.values(), default=0.0)
        values = {w: v - dense for w, v in self._values.items() if projection.fits(w)}
        fitted = model.fit(values)
        start = max(values, key=values.__getitem__, default=projection.uniform())
        new: list[Widths] = []
        for _ in range(self.problem.workers):
            for attempt in range(own.attempts):
                curves = fitted.draw(self._random, 1 + attempt / 2)
                widths = allocate(projection, curves, start, own)
                if Candidate(widths) not in self._asked and widths not in new:
                    new.append(widths)
                    break
            else:
                break
        return new
