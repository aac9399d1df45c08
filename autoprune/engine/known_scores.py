"""Scores by sample of candidates, which go along with the work: no worker computes them again.

Scoring stops early where a candidate is surely worse than the incumbent, sample by sample. The
worker that measured the incumbent has its scores; others would have to build and score it first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from autoprune.core.policy import Widths
from autoprune.engine.evaluators import Evaluators, measure_candidate
from autoprune.engine.executors import Pending, Work
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.sample_scores import SampleScores

# Candidates that are remembered: more than are on their way at once, so that the incumbent is.
MOST = 256

Found = tuple[Measurement, Mapping[Widths, SampleScores]]
"""A measurement, and the scores by sample that the worker knows and this process may not."""


class KnownScores:
    """What is known of candidates that were measured lately."""

    def __init__(self) -> None:
        self._by_widths: OrderedDict[Widths, SampleScores] = OrderedDict()

    def work(self, widths: Widths, base: Widths | None, incumbent: Widths | None) -> Work[Found]:
        """Return what measures a candidate, as `measure_candidate` does, and what it learns."""
        known: dict[Widths, SampleScores] = {}
        if incumbent is not None and incumbent in self._by_widths:
            self._by_widths.move_to_end(incumbent)
            known = {incumbent: self._by_widths[incumbent]}
        return partial(_measure, widths, base, incumbent, known)

    def learning(self, pending: Pending[Found]) -> Pending[Measurement]:
        """Return what waits for a measurement and remembers what came with it."""

        def wait() -> Measurement:
            measurement, found = pending()
            self._by_widths.update(found)
            while len(self._by_widths) > MOST:
                self._by_widths.popitem(last=False)
            return measurement

        return wait


def _measure(
    widths: Widths,
    base: Widths | None,
    incumbent: Widths | None,
    known: Mapping[Widths, SampleScores],
    evaluators: Evaluators,
) -> Found:
    for one, scores in known.items():
        evaluators.search.remember(one, scores)
    measurement = measure_candidate(widths, base, incumbent, evaluators)
    if not evaluators.stops_early:  # nothing is compared with an incumbent
        return measurement, {}
    asked = (one for one in (widths, incumbent) if one is not None and one not in known)
    found = {one: evaluators.search.by_sample(one) for one in asked}
    return measurement, {one: scores for one, scores in found.items() if scores is not None}
