"""What is measured of a layer in each alignment class, and the surfaces made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.records import significant
from autoprune.cost.latency.alignment import AlignmentClass, Axis, alignment_classes
from autoprune.cost.latency.curves import Curve, LayerLatency, Surface
from autoprune.cost.latency.signature import BARE, Family, Signature
from autoprune.profiling.refinement import coarse, largest_multiple
from autoprune.profiling.sampling import Measured, Sampling
from autoprune.profiling.stopwatch import Timing


@dataclass(frozen=True)
class Grid:
    """The widths at which a layer is measured in one alignment class: two curves and a grid.

    Attributes:
        family: The layer.
        alignment_class: The class of its widths.
        sampling: What decides the positions along a curve.
    """

    family: Family
    alignment_class: AlignmentClass
    sampling: Sampling

    @property
    def inputs(self) -> Axis:
        """The lengths of the inputs."""
        return self.family.dense.input_axis(self.alignment_class)

    @property
    def outputs(self) -> Axis:
        """The lengths of the outputs."""
        return self.family.dense.output_axis(self.alignment_class)

    def at(self, inputs: int, outputs: int) -> Signature:
        """Return the signature of the layer with these lengths."""
        return self.family.dense.cut_to(inputs, outputs)

    def input_curve(self, measured: Measured) -> dict[int, Signature]:
        """Return what is measured along the inputs, by length, as far as it can be told yet."""
        top = self.outputs.top
        return self._curve(
            self.inputs, self.family.inputs_vary, lambda n: self.at(n, top), measured
        )

    def output_curve(self, measured: Measured) -> dict[int, Signature]:
        """Return what is measured along the outputs, by length, as far as it can be told yet."""
        top = self.inputs.top
        return self._curve(
            self.outputs, self.family.outputs_vary, lambda n: self.at(top, n), measured
        )

    def _curve(
        self, axis: Axis, varies: bool, at: Callable[[int], Signature], measured: Measured
    ) -> dict[int, Signature]:
        found = self.sampling.positions(axis, varies, lambda one: measured(at(axis.at(one))))
        return {length: at(length) for length in _lengths(axis, varies, found)}

    def coarse_lengths(self) -> tuple[list[int], list[int]]:
        """Return the inputs and the outputs whose combinations are measured."""
        varying = (self.inputs, self.family.inputs_vary), (self.outputs, self.family.outputs_vary)
        inputs, outputs = (
            _lengths(axis, varies, coarse(axis.count, varies, largest_multiple(axis)))
            for axis, varies in varying
        )
        return inputs, outputs


def _lengths(axis: Axis, varies: bool, positions: Iterable[int]) -> list[int]:
    """Return the lengths at some positions, rising; with the least one if the width can be cut."""
    return sorted({*map(axis.at, positions), *([axis.least] if varies else [])})


def wanted(layers: Sequence[Family], measured: Measured, sampling: Sampling) -> Iterator[Signature]:
    """Yield every signature that a table of some layers needs, as far as it can be told yet.

    Args:
        layers: The layers of a network.
        measured: The timings so far.
        sampling: What decides where layers are measured.
    """
    yield BARE
    probes = [probe for one in layers for probe in sampling.probes(one)]
    yield from probes
    if any(measured(one) is None for one in probes):
        return
    for family, alignment in sampling.alignments(layers, measured).items():
        for own in alignment_classes(alignment):
            grid = Grid(family, own, sampling)
            yield from grid.input_curve(measured).values()
            yield from grid.output_curve(measured).values()
            yield from itertools.starmap(grid.at, itertools.product(*grid.coarse_lengths()))


def assemble(
    layers: Sequence[Family], measured: Measured, sampling: Sampling
) -> tuple[LayerLatency, ...]:
    """Return the latencies of layers from what was measured.

    Raises:
        KeyError: A signature that they need was not measured; it is the error's argument.
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
                _surface(Grid(family, own, sampling), measured, timing)
                for own in alignment_classes(alignment)
            ),
        )
        for family, alignment in sampling.alignments(layers, measured).items()
    )


def _surface(grid: Grid, measured: Measured, timing: Callable[[Signature], Timing]) -> Surface:
    inputs, outputs = (
        {length: timing(one) for length, one in curve.items()}
        for curve in (grid.input_curve(measured), grid.output_curve(measured))
    )
    top = inputs[grid.inputs.top].ms
    rows, columns = grid.coarse_lengths()
    departures = tuple(
        tuple(
            significant(timing(grid.at(a, b)).ms * top / (inputs[a].ms * outputs[b].ms))
            for b in columns
        )
        for a in rows
    )
    return Surface(_curve(inputs), _curve(outputs), tuple(rows), tuple(columns), departures)


def _curve(timings: Mapping[int, Timing]) -> Curve:
    return Curve(
        tuple(timings),
        tuple(significant(one.ms) for one in timings.values()),
        tuple(significant(one.spread_ms) for one in timings.values()),
    )
