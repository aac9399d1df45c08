"""NetAdapt (Yang et al. 2018): step by step down to the budget, measured at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from autoprune.agents.local_search import LocalSearchStrategy
from autoprune.agents.tools.moves import error, narrow
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import descend, least_loss
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.trial import Candidate

# Part of the evaluations that the way down takes; refinement at the budget has the rest.
DESCENT = 0.3
# A step removes this part of what the step before it removed.
DECAY = 0.9
# What it costs to go on from bases, besides what is then computed, in forward passes for each step.
OVERHEAD = 0.5
# Proposals of each step for every step that there is: 8 steps with 4 proposals at 100 trials.
PROPOSALS_PER_STEP = 0.5


class NetAdaptStrategy(LocalSearchStrategy):
    """Cuts to ever lower bounds, keeps what loses least at each, then trades units at the budget.

    A step's proposals narrow one group each until the step's bounds just hold, plus one that
    narrows several, where the calibrated curves see the least loss: it stands for several steps of
    NetAdapt at once, and is all there is where no group alone can meet the bounds (as with a cost
    that is a maximum). Only the groups that promise the least loss per cost are proposed. The
    proposal that loses least reward per cost saved is kept. Bounds of all costs fall together.

    At the budget, a local search goes on from there. Every answer calibrates the curves.
    """

    name: ClassVar[str] = "netadapt"
    options: ClassVar[tuple[str, ...]] = ()  # it begins with the dense network, not with advice

    def _course(self) -> Iterator[Iterable[Candidate]]:
        # A search that is cut short has a candidate; losses are counted from the dense network.
        start = least_loss(self.problem.projection, self.problem.rankings)
        yield self._candidates([start, self.problem.space.sizes])
        yield from self._descend()
        yield from self._refine(start)

    def _candidates(
        self, proposals: Iterable[Widths], base: Widths | None = None
    ) -> list[Candidate]:
        fits = self.problem.projection.fits
        return [Candidate(w, "candidate" if fits(w) else "probe", base) for w in proposals]

    def _descend(self) -> Iterator[list[Candidate]]:
        current, final = self.problem.space.sizes, self.problem.projection
        steps, count = plan(self.problem.trials, len(current))
        for projection in [*step_bounds(final, current, steps), final]:
            if projection.fits(current):
                continue
            proposals = self._proposals(current, projection, count)
            if projection is final:
                proposals = [final.fill(widths) for widths in proposals]
            base = current if shares_enough(proposals, current) else None
            yield self._candidates(sorted(proposals, key=_alike_to(current)), base)
            current = self._kept(current, proposals)

    def _proposals(self, current: Widths, projection: Projection, count: int) -> list[Widths]:
        """Return what may come next: several groups together, then single ones by promise."""
        curves = self._curves(current)
        alone = [w for g in range(len(current)) if (w := narrow(current, g, projection))]
        promise = [error(curves, w) / self._saved(current, w) for w in alone]
        ranked = [alone[place] for place in np.argsort(promise, kind="stable")]
        return [descend(current, curves, projection), *ranked[: count - 1]]

    def _kept(self, current: Widths, proposals: list[Widths]) -> Widths:
        """Return the proposal that loses least per cost; the curves' own if all failed."""
        measured = [w for w in proposals if w in self._values]
        dense = self._values.get(current, max(self._values.values(), default=0.0))
        losses = [(dense - self._values[w]) / self._saved(current, w) for w in measured]
        return measured[int(np.argmin(losses))] if measured else proposals[0]

    def _saved(self, current: Widths, widths: Widths) -> float:
        excess = self.problem.projection.excess
        return max(excess(current) - excess(widths), 1e-12)


def plan(trials: int, groups: int) -> tuple[int, int]:
    """Return (steps down to the budget, proposals of each) for so many evaluations."""
    evaluations = DESCENT * trials
    count = min(max(round(math.sqrt(PROPOSALS_PER_STEP * evaluations)), 2), groups + 1)
    return max(round(evaluations / count), 1), count


def step_bounds(projection: Projection, start: Widths, steps: int) -> list[Projection]:
    """Return the bounds of all steps but the last, whose are the budget's own.

    Args:
        projection: onto the budget.
        start: widths whose excess over each bound is to be removed.
        steps: how many; each removes `DECAY` times what the one before it removed.
    """
    removed = np.cumsum(DECAY ** np.arange(steps))
    return [
        Projection(
            projection.space,
            [
                Constraint(c.cost, c.limit + share * max(c.cost.total(start) - c.limit, 0.0))
                for c in projection.constraints
            ],
        )
        for share in (1 - removed / removed[-1])[:-1].tolist()
    ]


def shares_enough(proposals: Sequence[Widths], base: Widths) -> bool:
    """Whether proposals begin so much like their base that it pays to compute it besides."""
    alike = map(_alike_to(base), proposals)
    return sum(same.index(False) / len(same) for same in alike) > 1 + OVERHEAD


def _alike_to(base: Widths) -> Callable[[Widths], list[bool]]:
    """Return what says which groups are as wide; who changes early ones comes first by it."""
    return lambda widths: [a == b for a, b in zip(widths, base, strict=True)]
