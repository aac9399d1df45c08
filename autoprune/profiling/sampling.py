"""Where layers are measured: what their alignment is asked of, and which places of their curves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from autoprune.cost.latency.alignment import Axis
from autoprune.cost.latency.signature import Family, Signature
from autoprune.profiling.refinement import LARGEST_STEP, TimingAt, coarse, largest_step, nodes
from autoprune.profiling.stopwatch import Timing

Measured = Callable[[Signature], Timing | None]
"""The timing of a signature, None if it is not measured yet."""

# What layers may be quick at multiples of; their widths at a multiple then stand out by that share.
ALIGNMENTS, STANDS_OUT = (2, 4, 8), 0.05
Alignments = Mapping[Family, int]
"""What number every layer is quick at multiples of; 1 if that is all the same."""


class Sampling(ABC):
    """Decides where a layer is measured."""

    @abstractmethod
    def probes(self, family: Family) -> Sequence[Signature]:
        """Return what is measured first, to tell the layer's alignment."""

    @abstractmethod
    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Return what numbers layers are quick at multiples of, from the probes of all of them."""

    @abstractmethod
    def places(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return the places that a curve goes through, as far as they can be told.

        Args:
            axis: of the curve.
            varies: whether there are others than the longest.
            timing: of a place; the result holds those to be measured next, whose timing is None.
        """


class Refined(Sampling):
    """Looks at what was measured, and goes where it says most."""

    def probes(self, family: Family) -> Sequence[Signature]:
        """Return multiples with both of their neighbours."""
        top = _highest(family)
        if not top or not family.lanes_vary:
            return ()
        away = sorted({a + side for a in ALIGNMENTS for side in (-1, 0, 1)})
        return [family.with_lanes(top - one) for one in away]

    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Return the least multiples that are quicker or slower than both of their neighbours.

        Layers of a kind are at one: a single one's figures may be noise.
        """
        kinds: dict[Hashable, list[Family]] = defaultdict(list)
        for one in layers:
            kinds[one.kind].append(one)
        found: dict[Family, int] = {}
        for kind in kinds.values():
            probed = [one for one in kind if self.probes(one)]
            usual = next((a for a in ALIGNMENTS if _stands_out(probed, a, measured)), 1)
            found |= {one: usual if one.may_align_to(usual) else 1 for one in kind}
        return found

    def places(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return both sides of every step."""
        return nodes(axis.places, varies, timing, largest_step(axis))


class SoFar(Refined):
    """Looks no further than what was measured; the coarse places alone must have been."""

    def places(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return the coarse places, and of the others those that were measured."""
        found = super().places(axis, varies, timing)
        always = coarse(axis.places, varies, largest_step(axis))
        return {*always, *(place for place in found if timing(place) is not None)}


def _highest(family: Family) -> int:
    """Return the greatest multiple of the largest step, of lanes."""
    return family.dense.lanes // LARGEST_STEP * LARGEST_STEP


def _stands_out(layers: Sequence[Family], step: int, measured: Measured) -> bool:
    """Whether layers differ at a multiple from both neighbours, in the same direction."""
    departures = []
    for one in layers:
        place = _highest(one) - step
        own, *beside = (_ms(measured(one.with_lanes(place + side))) for side in (0, -1, 1))
        departures.append(own / float(np.clip(own, min(beside), max(beside))) - 1)
    return bool(departures) and abs(float(np.median(departures))) > STANDS_OUT


def _ms(timing: Timing | None) -> float:
    return timing.ms if timing is not None else math.nan
