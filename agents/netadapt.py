"""NetAdapt (Yang et al. 2018): step by step down to the budget, measured at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.agents.config import Positive, Share
from autoprune.agents.tools.moves import error, narrow
from autoprune.agents.tools.swapping import SwappingConfig, SwappingStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import greedy_cut, least_loss
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class NetAdaptConfig(SwappingConfig):
    """Options of NetAdapt, and of the swaps at the budget.

    Attributes:
        steps_share: share of the evaluations for the steps down to the budget; swaps at the budget
            have the rest.
        decay: a step removes this part of what the step before it removed.
        overhead: cost of evaluating from a step's base, beside the layers that differ, in forward
            passes.
        proposals_per_step: proposals of each step for every step that there is: 8 steps with 4
            proposals at 100 trials.
    """

    steps_share: Share = 0.3
    decay: Positive = 0.9
    overhead: float = 0.5
    proposals_per_step: Positive = 0.5


class NetAdaptStrategy(SwappingStrategy):
    """Cuts to ever lower bounds, keeps what loses least at each, then trades units at the budget.

    A step's proposals narrow one group each until the step's bounds just hold, plus one that
    narrows several, where the calibrated curves see the least loss: it stands for several steps of
    NetAdapt at once, and is all there is where no group alone can meet the bounds (as with a cost
    that is a maximum). Only the groups that promise the least loss per cost are proposed. The
    proposal that loses least reward per cost saved is kept. Bounds of all costs fall together.

    At the budget, a local search goes on from there. Every answer calibrates the curves.
    """

    name = "netadapt"
    config = NetAdaptConfig()

    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield the dense network, the proposals of every step, then swaps."""
        # A search that is cut short has a candidate; losses are counted from the dense network.
        start = least_loss(self.problem.projection, self.problem.rankings)
        yield self._candidates([start, self.problem.space.sizes])
        yield from self._step_down()
        yield from self._refine(start)

    def _candidates(
        self, proposals: Iterable[Widths], base: Widths | None = None
    ) -> list[Candidate]:
        fits = self.problem.projection.fits
        return [Candidate(w, "candidate" if fits(w) else "probe", base) for w in proposals]

    def _step_down(self) -> Iterator[list[Candidate]]:
        current, final = self.problem.space.sizes, self.problem.projection
        own = self.config
        steps, count = plan(self.problem.trials, len(current), own)
        for projection in [*step_bounds(final, current, steps, own.decay), final]:
            if projection.fits(current):
                continue
            proposals = self._proposals(current, projection, count)
            if projection is final:
                proposals = [final.fill(widths) for widths in proposals]
            base = current if shares_enough(proposals, current, own.overhead) else None
            yield self._candidates(sorted(proposals, key=_alike_to(current)), base)
            current = self._kept(current, proposals)

    def _proposals(self, current: Widths, projection: Projection, count: int) -> list[Widths]:
        """Return what may come next: several groups together, then single ones by promise."""
        curves = self._curves(current)
        alone = [w for g in range(len(current)) if (w := narrow(current, g, projection))]
        promise = [error(curves, w) / self._saved(current, w) for w in alone]
        ranked = [alone[place] for place in np.argsort(promise, kind="stable")]
        return [greedy_cut(current, curves, projection), *ranked[: count - 1]]

    def _kept(self, current: Widths, proposals: list[Widths]) -> Widths:
        """Return the proposal that loses least per cost; the curves' own if all failed."""
        measured = [w for w in proposals if w in self._values]
        dense = self._values.get(current, max(self._values.values(), default=0.0))
        losses = [(dense - self._values[w]) / self._saved(current, w) for w in measured]
        return measured[int(np.argmin(losses))] if measured else proposals[0]

    def _saved(self, current: Widths, widths: Widths) -> float:
        excess = self.problem.projection.excess
        return max(excess(current) - excess(widths), 1e-12)


def plan(trials: int, groups: int, config: NetAdaptConfig) -> tuple[int, int]:
    """Return (steps down to the budget, proposals of each) for a number of trials."""
    evaluations = config.steps_share * trials
    count = min(max(round(math.sqrt(config.proposals_per_step * evaluations)), 2), groups + 1)
    return max(round(evaluations / count), 1), count


def step_bounds(
    projection: Projection, start: Widths, steps: int, decay: float
) -> list[Projection]:
    """Return the bounds of all steps but the last, whose are the budget's own.

    Args:
        projection: onto the budget.
        start: widths whose excess over each bound is to be removed.
        steps: how many.
        decay: what each step removes, as a part of what the one before it removed.
    """
    removed = np.cumsum(decay ** np.arange(steps))
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


def shares_enough(proposals: Sequence[Widths], base: Widths, overhead: float) -> bool:
    """Return whether proposals begin so much like their base that it pays to compute that, too."""
    alike = map(_alike_to(base), proposals)
    return sum(same.index(False) / len(same) for same in alike) > 1 + overhead


def _alike_to(base: Widths) -> Callable[[Widths], list[bool]]:
    """Return a key of widths: by group, whether they are the base's; early changes sort first."""
    return lambda widths: [a == b for a, b in zip(widths, base, strict=True)]
