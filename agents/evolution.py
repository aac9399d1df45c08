"""Evolution by swaps that keep to the budget (after EvoPress, Sieberling et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.config import Count, Positive, Share
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate, Trial


@dataclass(frozen=True)
class EvolutionConfig:
    """Options of the evolution.

    Attributes:
        children: of one parent, before the best of all becomes the next parent; as many as are on
            their way at once, where these are more.
        first_step: mean change of a group's keep ratio at first.
        smallest_step: lower bound of the step.
        largest_step: upper bound of the step.
        growth: factor on the step after a better child; a worse one undoes a quarter of it (the 1/5
            rule of Rechenberg 1973, in the form of Kern et al. 2004).
        most_swaps: pairs of groups that swap width in one child, at most.
        attempts: to find widths that were not proposed before.
    """

    children: Count = 2
    first_step: Share = 0.15
    smallest_step: Share = 0.02
    largest_step: Share = 0.5
    growth: Positive = 1.5
    most_swaps: Count = 3
    attempts: Count = 80


class EvolutionStrategy(Strategy):
    """(1+λ): children take width from some groups, give it to others, and the best one stays.

    As in EvoPress, few swaps are likelier than many. A swap moves keep ratio, and the projection
    then scales all ratios onto the budget, since groups cost unlike. The first parents are the
    uniform candidate and, where the criterion gives errors, the one of least expected loss.
    """

    name = "evolution"
    config = EvolutionConfig()

    def start(self, problem: SearchProblem) -> None:
        """Begin with the known warm starts."""
        self._random = np.random.default_rng(problem.seed)
        self._starts = warm_starts(problem)
        self._parent, self._value = self._starts[0], -np.inf
        self._children: list[tuple[float, Widths]] = []
        self._begun, self._size = 0, len(self._starts)
        self._asked: set[Widths] = set()
        self._step = self.config.first_step

    def ask(self) -> Candidate | None:
        """Return a start, then children; None where all that can be reached is known."""
        widths = self._starts.pop(0) if self._starts else self._child()
        if widths is None:
            return None
        self._asked.add(widths)
        self._begun += 1
        return Candidate(widths, awaited=self._begun == self._size)

    def tell(self, trial: Trial) -> None:
        """Select the next parent when a generation (all starts, or λ children) is complete."""
        value = -np.inf if trial.value is None else trial.value
        self._children.append((value, trial.candidate.widths))
        if len(self._children) < self._size:
            return
        value, widths = max(self._children)
        better = value > self._value
        if np.isfinite(self._value):
            self._step = self._changed(self._step, better)
        if better:
            self._parent, self._value = widths, value
        self._children = []
        self._begun, self._size = 0, max(self.config.children, self.problem.at_once)

    def _changed(self, step: float, better: bool) -> float:
        own = self.config
        factor = own.growth if better else own.growth**-0.25
        return float(np.clip(step * factor, own.smallest_step, own.largest_step))

    def _child(self) -> Widths | None:
        """Return new widths by a few swaps, more and wider ones where those near are known."""
        groups = len(self.problem.space)
        ratios = self.problem.space.ratios(self._parent)
        for attempt in range(self.config.attempts):
            most = min(self.config.most_swaps, max(groups // 2, 1)) + attempt // 8
            swaps = int(self._random.integers(1, most + 1, size=2).min())
            chosen = self._random.permutation(groups)[: 2 * swaps]
            change = self._random.exponential(self._step * (1 + attempt / 8), size=len(chosen))
            change[::2] *= -1
            wanted = ratios.copy()
            wanted[chosen] += change
            widths = self.problem.projection.project(wanted.clip(0.01, 1.0))
            if widths not in self._asked:
                return widths
        return None
