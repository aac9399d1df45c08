"""Where a layer's latency is measured: coarsely, and then wherever a curve does not run straight.

First a few widths tell what number of channels the layer is quick at multiples of. Then curves are
refined on both sides of a step, at multiples that devices favour.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.cost.latency.curves import Curve, LayerLatency, Surface
from autoprune.cost.latency.lattice import Axis, Lattice, lattices
from autoprune.cost.latency.signature import BARE, Family, Signature
from autoprune.cost.latency.stopwatch import Timing
from autoprune.cost.latency.untrusted import significant

# Shares of a width where every curve and the grid are measured.
COARSE = (0.125, 0.25, 0.5)
# A curve runs straight where its middle is no further from the chord than that, as a share.
STRAIGHT = 0.04
# Steps lie at multiples of at most that.
LARGEST_STEP = 16
# Shorter stretches are not looked into.
SHORTEST = 4

Measured = Callable[[Signature], Timing | None]
"""The timing of a signature, None if it is not measured yet."""


TimingAt = Callable[[int], Timing | None]
"""The timing at a place of an axis, None if it is not measured yet."""

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


def largest_step(axis: Axis) -> int:
    """Return the places between two steps that lie furthest apart."""
    return max(LARGEST_STEP // axis.lattice.step, 1)


def coarse(length: int, varies: bool, largest: int = LARGEST_STEP) -> list[int]:
    """Return the places that are measured in any case, rising."""
    if not varies:
        return [length]
    shares = {_aligned(share * length, length, largest) for share in COARSE}
    return sorted({1, length} | {one for one in shares if 1 < one < length})


def _aligned(wanted: float, length: int, step: int) -> int:
    """Return the multiple nearest to a length of the largest power of two that fits into it."""
    while step > 1 and 2 * step > min(wanted, length):
        step //= 2
    return max(round(wanted / step) * step, 1)


def nodes(length: int, varies: bool, timing: TimingAt, largest: int = LARGEST_STEP) -> set[int]:
    """Return the places that a curve goes through, as far as they can be told.

    Args:
        length: the last one.
        varies: whether there are others.
        timing: of a place; the nodes hold those to be measured next, whose timing is None.
        largest: places between two steps, at most.
    """
    # A step up lies right behind a multiple.
    always = coarse(length, varies, largest)
    start = sorted({*always, *(n + 1 for n in always if n < length)})
    found = set(start)
    pending = list(itertools.pairwise(start))
    while pending:
        low, high = pending.pop()
        a, b = timing(low), timing(high)
        inner = _middle(low, high, largest)
        if not inner or a is None or b is None:
            continue
        found.update(inner)
        if not _runs_straight(low, a, high, b, inner, timing):
            ends = [low, *inner, high]
            pending += [(ends[0], ends[1]), (ends[-2], ends[-1])]
    return found


def _middle(low: int, high: int, step: int) -> list[int]:
    """Return where to look between two places: on a multiple and just behind it."""
    if high - low < max(SHORTEST * step // LARGEST_STEP, 2):
        return []
    while step > 1 and 2 * step > high - low:
        step //= 2
    middle = round((low + high) / 2 / step) * step
    return [one for one in (middle, middle + 1) if low < one < high]


def _runs_straight(
    low: int,
    a: Timing,
    high: int,
    b: Timing,
    inner: Sequence[int],
    timing: TimingAt,
) -> bool:
    for length in inner:
        seen = timing(length)
        if seen is None:
            return True  # nothing more can be told before it is measured
        chord = a.ms + (b.ms - a.ms) * (length - low) / (high - low)
        noise = max(seen.spread_ms, a.spread_ms, b.spread_ms)
        if abs(seen.ms - chord) > max(STRAIGHT * seen.ms, noise):
            return False
    return True


@dataclass(frozen=True)
class Sheet:
    """A layer over both of its widths, on one lattice."""

    family: Family
    lattice: Lattice
    sampling: Sampling

    @property
    def inputs(self) -> Axis:
        """Lengths of the inputs."""
        return self.family.dense.input_axis(self.lattice)

    @property
    def outputs(self) -> Axis:
        """Lengths of the outputs."""
        return self.family.dense.output_axis(self.lattice)

    def at(self, inputs: int, outputs: int) -> Signature:
        """Return the signature of these lengths."""
        return self.family.dense.cut_to(inputs, outputs)

    def input_curve(self, measured: Measured) -> dict[int, Signature]:
        """Return what is measured along the inputs, by their length, as far as it can be told."""
        top = self.outputs.top
        return self._curve(
            self.inputs, self.family.inputs_vary, lambda n: self.at(n, top), measured
        )

    def output_curve(self, measured: Measured) -> dict[int, Signature]:
        """Return what is measured along the outputs, by their length, as far as it can be told."""
        top = self.inputs.top
        return self._curve(
            self.outputs, self.family.outputs_vary, lambda n: self.at(top, n), measured
        )

    def _curve(
        self, axis: Axis, varies: bool, at: Callable[[int], Signature], measured: Measured
    ) -> dict[int, Signature]:
        found = self.sampling.places(axis, varies, lambda place: measured(at(axis.at(place))))
        return {length: at(length) for length in _lengths(axis, varies, found)}

    def grid(self) -> tuple[list[int], list[int]]:
        """Return the lengths of the coarse grid, of inputs and of outputs."""
        varying = (self.inputs, self.family.inputs_vary), (self.outputs, self.family.outputs_vary)
        inputs, outputs = (
            _lengths(axis, varies, coarse(axis.places, varies, largest_step(axis)))
            for axis, varies in varying
        )
        return inputs, outputs


def _lengths(axis: Axis, varies: bool, places: Iterable[int]) -> list[int]:
    """Return the lengths at some places and, if there are others, the least one; rising."""
    return sorted({*map(axis.at, places), *([axis.least] if varies else [])})


def wanted(layers: Sequence[Family], measured: Measured, sampling: Sampling) -> Iterator[Signature]:
    """Yield every signature that tables of layers need, as far as it can be told yet.

    Args:
        layers: of a network.
        measured: timings, so far.
        sampling: where they are measured.
    """
    yield BARE
    probes = [probe for one in layers for probe in sampling.probes(one)]
    yield from probes
    if any(measured(one) is None for one in probes):
        return
    for family, alignment in sampling.alignments(layers, measured).items():
        for lattice in lattices(alignment):
            sheet = Sheet(family, lattice, sampling)
            yield from sheet.input_curve(measured).values()
            yield from sheet.output_curve(measured).values()
            yield from itertools.starmap(sheet.at, itertools.product(*sheet.grid()))


def assemble(
    layers: Sequence[Family], measured: Measured, sampling: Sampling
) -> tuple[LayerLatency, ...]:
    """Return the latencies of layers from what was measured.

    Raises:
        KeyError: a signature that they need was not measured; its argument is the signature.
    """

    def timing(signature: Signature) -> Timing:
        found = measured(signature)
        if found is None:
            raise KeyError(signature)
        return found

    for one in layers:
        for probe in sampling.probes(one):
            timing(probe)
    return tuple(
        LayerLatency(
            family.dense,
            alignment,
            tuple(
                _surface(Sheet(family, lattice, sampling), measured, timing)
                for lattice in lattices(alignment)
            ),
        )
        for family, alignment in sampling.alignments(layers, measured).items()
    )


def _surface(sheet: Sheet, measured: Measured, timing: Callable[[Signature], Timing]) -> Surface:
    inputs, outputs = (
        {length: timing(one) for length, one in curve.items()}
        for curve in (sheet.input_curve(measured), sheet.output_curve(measured))
    )
    top = inputs[sheet.inputs.top].ms
    rows, columns = sheet.grid()
    grid = [
        [timing(sheet.at(a, b)).ms * top / (inputs[a].ms * outputs[b].ms) for b in columns]
        for a in rows
    ]
    return Surface(_curve(inputs), _curve(outputs), tuple(rows), tuple(columns), np.array(grid))


def _curve(timings: Mapping[int, Timing]) -> Curve:
    return Curve(
        tuple(timings),
        tuple(significant(one.ms) for one in timings.values()),
        tuple(significant(one.spread_ms) for one in timings.values()),
    )
