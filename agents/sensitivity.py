"""One threshold on the loss of every group: sensitivity analysis (Li et al. 2017, section 3.2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoprune.agents.base import SearchProblem
from autoprune.agents.config import Share
from autoprune.agents.tools.loss_curves import loss_curves, plan_probes
from autoprune.agents.tools.scripted import ScriptedStrategy
from autoprune.core.policy import Widths
from autoprune.search_spaces.greedy import Curves
from autoprune.study.trial import Candidate


@dataclass(frozen=True)
class SensitivityConfig:
    """Options of the sensitivity analysis.

    Attributes:
        probes: share of the trials that may be probes; the rest tries other thresholds.
    """

    probes: Share = 0.8


class SensitivityStrategy(ScriptedStrategy):
    """Every group takes its smallest width that alone loses no more than a common threshold.

    Probes cut one group at a time. The threshold is the least with which the budget holds (the rule
    of ModelOpt's FastNAS and of AIMET); what rounding leaves of the budget is spent by the
    projection. Trials that are left try the thresholds around it, nearest first, each projected.
    """

    name = "sensitivity"
    config = SensitivityConfig()

    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield the uniform candidate with the probes, then the thresholds."""
        # A search that is cut short among the probes has something to hand over.
        uniform = self.problem.projection.uniform()
        yield [Candidate(uniform), *plan_probes(self.problem, self.config.probes)]
        curves = loss_curves(self.problem, self._values)
        yield map(Candidate, _by_threshold(self.problem, curves))


def _by_threshold(problem: SearchProblem, curves: Curves) -> Iterator[Widths]:
    """Yield the widths of every threshold, on the budget; first that which just meets it."""
    losses = [curve[levels] for levels, curve in zip(problem.space.levels, curves, strict=True)]
    thresholds = np.unique(np.concatenate(losses)).tolist()

    def widths(threshold: float) -> Widths:
        # Curves fall with the width: the first level within the threshold is the narrowest.
        return tuple(
            int(levels[np.argmax(loss <= threshold)])
            for levels, loss in zip(problem.space.levels, losses, strict=True)
        )

    places = range(len(thresholds))
    meets = bisect_left(places, True, key=lambda p: problem.projection.fits(widths(thresholds[p])))
    for place in sorted(places, key=lambda p: abs(p - meets)):
        yield problem.projection.project(problem.space.ratios(widths(thresholds[place])))
