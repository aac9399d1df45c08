"""A layer over both of its widths, on every lattice: what is measured, and what that makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.untrusted import significant
from autoprune.cost.latency.alignment import Axis, Lattice, lattices
from autoprune.cost.latency.curves import Curve, LayerLatency, Surface
from autoprune.cost.latency.signature import BARE, Family, Signature
from autoprune.profiling.refinement import coarse, largest_step
from autoprune.profiling.sampling import Measured, Sampling
from autoprune.profiling.stopwatch import Timing


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
