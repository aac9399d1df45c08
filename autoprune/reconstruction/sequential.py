"""Sequential, residual-aware reconstruction of a cut network (He et al. 2017, section 3.2).

The cut network runs once over all calibration samples. Just before a layer runs, its weights are
refitted: the inputs are those that the already refitted layers before it produce, and the targets
are the dense network's outputs at the same place. Where the output is added to a shortcut, the
target is the dense sum minus the cut network's shortcut, so that errors are repaired instead of
accumulating. Where a ReLU follows, only its result matters (Zhang et al. 2016, "Accelerating Very
Deep Convolutional Networks", section 3.2, without their relaxation): an output that is negative in
the dense network may have any negative value.

Memory: the activations of one pass over all samples (`samples_within` gives the number of samples
that fit), the targets of every layer (`targets.ROW_BYTES` per row, or a few rows per input where
that is more; every effort has its own targets), and the patches of one layer, rows x inputs in
float32. Layers with too few rows for their inputs keep their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.precision import at_least_single
from autoprune.core.threads import OwnLock
from autoprune.data import Samples
from autoprune.reconstruction.layerwise import LayerCall, LayerwisePass, can_refit
from autoprune.reconstruction.ridge import Affine, RidgeToPrior, targets_behind_clamp
from autoprune.reconstruction.targets import ENOUGH, Target, record_targets, rows_to_draw
from autoprune.statistics.moments import outputs_at, patches
from autoprune.structure.branches import Branch
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.surgery import Keep

# How many of the largest activations are in memory at the same time.
ALIVE = 4
# BN gains |γ|/σ below this fraction of the layer's largest do not amplify shortcut errors.
SMALLEST_GAIN = 0.05


@dataclass(frozen=True)
class Effort:
    """How much a repair may compute.

    Attributes:
        samples: largest number of samples; None for all that fit.
        rows: rows of every layer's least-squares problem, where there are that many positions.
        rounds: number of times that targets behind a clamp are updated. More rounds fit the samples
            better and other images worse.
    """

    samples: int | None
    rows: int
    rounds: int


THOROUGH_EFFORT = Effort(samples=None, rows=64_000, rounds=3)
# Takes a tenth of the time. Without any round it would rank networks differently.
QUICK_EFFORT = Effort(samples=500, rows=8_000, rounds=1)


class SequentialRepair:
    """Repairs networks cut from one dense network, whose targets are recorded at first use.

    Attributes:
        samples: calibration data in use.
    """

    def __init__(
        self,
        dense: nn.Module,
        structure: Structure,
        calibration: Samples,
        seed: int,
        effort: Effort = THOROUGH_EFFORT,
    ) -> None:
        """Set up a repair; nothing is computed yet.

        Args:
            dense: the dense network in evaluation mode.
            structure: structure of the network.
            calibration: samples, which must fit into one pass (see `samples_within`).
            seed: seed for sampling positions.
            effort: how much to compute.
        """
        self._dense = dense
        self._structure = structure
        self._layers = {layer.weight: layer for layer in structure.layers if can_refit(layer)}
        self.samples = calibration.first(effort.samples or len(calibration))
        self._seed = seed
        self._effort = effort
        self._targets: Mapping[str, Target] | None = None
        self._lock = OwnLock()  # candidates are built in several threads

    def with_effort(self, effort: Effort) -> SequentialRepair:
        """Return a repair at another effort, on these samples or fewer."""
        return SequentialRepair(self._dense, self._structure, self.samples, self._seed, effort)

    def work(self) -> int:
        """Return about how many multiply-accumulates the repair of an uncut network takes."""
        return sum(
            self._work(layer, *self._dense.get_parameter(layer.weight).flatten(1).shape)
            for layer in self._structure.layers
        )

    def _work(self, layer: LayerSpec, outputs: int, inputs: int) -> int:
        """Return those of one layer: forward pass, normal equations and their solution."""
        positions = len(self.samples) * layer.positions
        rows = min(rows_to_draw(self._effort.rows, outputs, inputs), positions)
        is_fitted = can_refit(layer) and rows >= ENOUGH * inputs
        return positions * outputs * inputs + is_fitted * (rows + inputs) * inputs**2

    def repair(self, small: nn.Module, keep: Keep, gone: Sequence[Branch] = ()) -> None:
        """Refit every layer of a cut network in network order, in place.

        Args:
            small: the cut network; its weights are the prior.
            keep: kept entries of every tensor.
            gone: residual branches that it does without.
        """
        cut = Cut(keep, tuple(gone))
        dense = _Dense(self._dense, self._recorded())
        _Refitting(small, self._layers, cut, dense, self._effort.rounds).run(self.samples)

    def _recorded(self) -> Mapping[str, Target]:
        """Return the targets, recorded at the first call."""
        with self._lock:
            if self._targets is None:
                self._targets = record_targets(
                    self._dense, self._layers, self.samples, self._seed, self._effort.rows
                )
            return self._targets


def samples_within(structure: Structure, memory: int) -> int:
    """Return the number of samples whose activations in one pass fit into memory.

    `ALIVE` of the largest activations are in memory at the same time.

    Args:
        structure: structure of the network.
        memory: bytes.
    """
    largest = max(
        layer.runs * math.prod(shape) * structure.itemsizes[layer.weight]
        for layer in structure.layers
        for shape in (layer.input_shape, layer.output_shape)
    )
    return max(1, int(memory / (ALIVE * largest)))


@dataclass(frozen=True, eq=False)
class _Dense:
    """The dense network and the targets recorded from it, by weight name."""

    network: nn.Module
    targets: Mapping[str, Target]


@dataclass(frozen=True, eq=False)
class Cut:
    """What was cut: the kept entries of every tensor, and the branches that are gone."""

    keep: Keep
    gone: tuple[Branch, ...]


class _Refitting(LayerwisePass):
    """Refits every layer of a cut network while it runs."""

    def __init__(
        self,
        small: nn.Module,
        layers: Mapping[str, LayerSpec],
        cut: Cut,
        dense: _Dense,
        rounds: int,
    ) -> None:
        super().__init__(small, layers, cut.gone)
        self._keep = cut.keep
        self._dense = dense
        self._rounds = rounds

    def visit(
        self, layer: LayerSpec, call: LayerCall, shortcut: Float[Tensor, "samples ..."] | None
    ) -> Float[Tensor, "samples ..."]:
        source, weight = call.source, self._model.get_parameter(layer.weight)
        target = self._dense.targets[layer.weight]
        if target.positions.numel() < ENOUGH * weight[0].numel():
            return call.run()
        if layer.batchnorm is not None:
            # The targets are raw outputs of the dense network, which belong to its statistics.
            self._set_statistic(layer, "running_mean")
            self._set_statistic(layer, "running_var")
        outputs = self._target_outputs(layer, target, shortcut)
        bias = self._bias(layer)
        shifts = layer.absorbs_mean or bias is not None
        inputs = patches(layer, source, target.positions)
        problem = RidgeToPrior(inputs, weight.flatten(1), shifts)
        problem.fit(outputs)
        if layer.clamp is not None and self._rounds:
            affine = self._affine_to_clamp(layer, target, shortcut)
            closest = targets_behind_clamp(outputs, affine, layer.clamp)
            for _ in range(self._rounds):
                problem.fit(closest(problem.outputs()))
        weight.copy_(problem.weight.reshape(weight.shape))
        if shifts:
            self._place(layer, problem.intercept)
        # In the precision that the layer is called in.
        bias = None if bias is None else bias.to(source.dtype)
        return call.run_with(weight.to(source.dtype), bias)

    def _bias(self, layer: LayerSpec) -> Tensor | None:
        """Return the bias in the cut network, which may have one that the dense layer lacks."""
        if layer.bias is not None:
            return self._model.get_parameter(layer.bias)
        return getattr(self._model.get_submodule(layer.name), "bias", None)

    def _target_outputs(
        self, layer: LayerSpec, target: Target, shortcut: Tensor | None
    ) -> Float[Tensor, "rows kept"]:
        """Return the dense outputs of the kept channels, corrected by the shortcut's error."""
        kept = self._keep.get(layer.weight, {}).get(layer.out_dim)
        outputs = at_least_single(target.outputs if kept is None else target.outputs[:, kept])
        if target.shortcut is None or shortcut is None:
            return outputs
        dense = target.shortcut if kept is None else target.shortcut[:, kept]
        error = dense - outputs_at(layer, shortcut, target.positions)
        return outputs + error / self._gain(layer)

    def _gain(self, layer: LayerSpec) -> Float[Tensor, " kept"] | Float[Tensor, ""]:
        """Return γ/σ of the BN behind a layer; infinite where it is too small to divide by."""
        if layer.batchnorm is None:
            return torch.ones(())
        bn = self._model.get_submodule(layer.batchnorm)
        assert isinstance(bn, _BatchNorm) and bn.running_var is not None
        gain = (at_least_single(bn.running_var) + bn.eps).rsqrt()
        gain = gain if bn.weight is None else gain * bn.weight
        return torch.where(gain.abs() <= SMALLEST_GAIN * gain.abs().max(), torch.inf, gain)

    def _affine_to_clamp(self, layer: LayerSpec, target: Target, shortcut: Tensor | None) -> Affine:
        """Return scale and shift between a layer's raw outputs and the clamp behind it."""
        gain, shift = self._gain(layer), torch.zeros(())
        if layer.batchnorm is not None:
            bn = self._model.get_submodule(layer.batchnorm)
            assert isinstance(bn, _BatchNorm) and bn.running_mean is not None
            shift = -gain * bn.running_mean
            shift = shift if bn.bias is None else shift + bn.bias
        if target.shortcut is not None and shortcut is not None:
            shift = shift + outputs_at(layer, shortcut, target.positions)
        return gain, shift

    def _place(self, layer: LayerSpec, intercept: Float[Tensor, " kept"]) -> None:
        """Store a layer's intercept in its bias, or in the BN behind it."""
        bias = self._bias(layer)
        if bias is not None:
            bias.copy_(intercept)
        else:
            assert layer.batchnorm is not None
            # The layer's raw output lacks the intercept: the BN must subtract less.
            self._set_statistic(layer, "running_mean", -intercept)

    def _set_statistic(self, layer: LayerSpec, what: str, change: Tensor | float = 0.0) -> None:
        """Set a statistic of the BN behind a layer to the dense network's plus a change."""
        name = f"{layer.batchnorm}.{what}"
        kept = self._keep.get(name, {}).get(0)
        dense = self._dense.network.get_buffer(name)
        self._model.get_buffer(name).copy_((dense if kept is None else dense[kept]) + change)
