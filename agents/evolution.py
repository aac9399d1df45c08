"""Evolution by swaps that keep to the budget (after EvoPress, Sieberling et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.global_ranking import warm_starts
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate, Trial

# Children of one parent before the best of all is the next parent.
CHILDREN = 2
# Mean change of a group's keep ratio at first, and its bounds.
FIRST_STEP, STEPS = 0.15, (0.02, 0.5)
# Growth of the step by a better child; a worse one undoes a quarter of it (the 1/5 rule of
# Rechenberg 1973, in the form of Kern et al. 2004).
GROWTH = 1.5
# Pairs of groups that swap in one child, at most.
MOST_SWAPS = 3
# Attempts to find widths that were not asked for before.
ATTEMPTS = 80


class EvolutionStrategy(Strategy):
    """(1+λ): children take width from some groups, give it to others, and the best one stays.

    As in EvoPress, few swaps are likelier than many. A swap moves keep ratio, and the projection
    then scales all ratios onto the budget, since groups cost unlike. The first parents are the
    uniform candidate and, where the criterion gives errors, the one of least expected loss.
    """

    name: ClassVar[str] = "evolution"

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._random = np.random.default_rng(problem.seed)
        self._starts = warm_starts(problem)
        self._parent, self._value = self._starts[0], -np.inf
        self._children: list[tuple[float, Widths]] = []
        self._begun, self._size = 0, len(self._starts)
        self._asked: set[Widths] = set()
        self._step = FIRST_STEP

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
            self._step = float(np.clip(self._step * (GROWTH if better else GROWTH**-0.25), *STEPS))
        if better:
            self._parent, self._value = widths, value
        self._children = []
        self._begun, self._size = 0, CHILDREN

    def _child(self) -> Widths | None:
        """Return new widths by a few swaps, more and wider ones where those near are known."""
        groups = len(self.problem.space)
        ratios = self.problem.space.ratios(self._parent)
        for attempt in range(ATTEMPTS):
            most = min(MOST_SWAPS, max(groups // 2, 1)) + attempt // 8
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
