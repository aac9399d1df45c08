"""Decides where layers are measured: how their alignment is found, and the positions of a curve."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from autoprune.cost.latency.alignment import Axis
from autoprune.cost.latency.signature import Family, Signature
from autoprune.profiling.refinement import (
    LARGEST_MULTIPLE,
    TimingAt,
    coarse,
    largest_multiple,
    refined,
)
from autoprune.profiling.stopwatch import Timing

Measured = Callable[[Signature], Timing | None]
"""Returns the timing of a signature, or None if it is not measured yet."""

# Layers may be fast at multiples of these; the latency there then differs by at least that share.
ALIGNMENTS, STANDS_OUT = (2, 4, 8), 0.05
Alignments = Mapping[Family, int]
"""The number at whose multiples each layer is fast; 1 if all widths are treated alike."""

# The alignment that is assumed where nobody can ask the device: ONNX Runtime's on CPUs.
ASSUMED_ALIGNMENT = 4
# The most steps along one width of a layer that exhaustive sampling covers.
MOST_STEPS = 16


class Sampling(ABC):
    """Decides where a layer is measured."""

    @abstractmethod
    def probes(self, family: Family) -> Sequence[Signature]:
        """Return what is measured first, to find the alignment of a layer."""

    @abstractmethod
    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Return the alignment of every layer, from the probes of all of them."""

    @abstractmethod
    def positions(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return the positions that a curve needs, as far as they can be told yet.

        Positions whose timing is None are to be measured next.

        Args:
            axis: The axis of the curve.
            varies: Whether the width can be cut.
            timing: The timing at a position.
        """


class RefinedSampling(Sampling):
    """Refines curves where the measurements so far show that they bend or step."""

    def probes(self, family: Family) -> Sequence[Signature]:
        """Return widths at multiples, and both neighbours of each."""
        top = _highest(family)
        if not top or not family.alignment_varies:
            return ()
        away = sorted({a + side for a in ALIGNMENTS for side in (-1, 0, 1)})
        return [family.with_aligned_channels(top - one) for one in away]

    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Return the least multiples that are faster or slower than both of their neighbours.

        Layers of a kind share one alignment, since the figures of a single layer may be noise.
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

    def positions(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return both sides of every step."""
        return refined(axis.count, varies, timing, largest_multiple(axis))


class CoarseSampling(RefinedSampling):
    """Asks for the coarse positions alone, but uses whatever else was measured."""

    def positions(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return the coarse positions, and those of the others that were measured."""
        found = super().positions(axis, varies, timing)
        always = coarse(axis.count, varies, largest_multiple(axis))
        return {*always, *(one for one in found if timing(one) is not None)}


class ExhaustiveSampling(Sampling):
    """Measures both sides of every step that a curve may have, without looking at results."""

    def probes(self, family: Family) -> Sequence[Signature]:
        """Return nothing: the answer would come too late."""
        return ()

    def alignments(self, layers: Sequence[Family], measured: Measured) -> Alignments:
        """Assume a fast path for every layer that is wide enough."""
        aligned = ASSUMED_ALIGNMENT
        return {one: aligned if one.may_align_to(aligned) else 1 for one in layers}

    def positions(self, axis: Axis, varies: bool, timing: TimingAt) -> set[int]:
        """Return both sides of every step."""
        last, multiple = axis.count, largest_multiple(axis)
        width = max(multiple, math.ceil(last / MOST_STEPS / multiple) * multiple)
        edges = [*coarse(last, varies, multiple), *(range(width, last, width) if varies else ())]
        return {one for edge in edges for one in (edge, edge + 1) if one <= last}


REFINED, COARSE, EXHAUSTIVE = RefinedSampling(), CoarseSampling(), ExhaustiveSampling()


def _highest(family: Family) -> int:
    """Return the greatest number of aligned channels that is a multiple of the largest one."""
    return family.dense.aligned_channels // LARGEST_MULTIPLE * LARGEST_MULTIPLE


def _stands_out(layers: Sequence[Family], multiple: int, measured: Measured) -> bool:
    """Return whether layers at a multiple differ from both neighbours, in the same direction."""
    departures = []
    for one in layers:
        count = _highest(one) - multiple
        own, *beside = (
            _ms(measured(one.with_aligned_channels(count + side))) for side in (0, -1, 1)
        )
        departures.append(own / float(np.clip(own, min(beside), max(beside))) - 1)
    return bool(departures) and abs(float(np.median(departures))) > STANDS_OUT


def _ms(timing: Timing | None) -> float:
    return timing.ms if timing is not None else math.nan
