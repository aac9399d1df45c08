"""Sequential, residual-aware reconstruction of a cut network (He et al. 2017, section 3.2).

The cut network runs once over all calibration samples. Just before a layer runs, its weights are
refitted: inputs are what the already refitted prefix gives, targets what the dense network had at
the same place. Where the output is added to a shortcut, the target is the dense sum minus the cut
network's shortcut, so that errors are repaired instead of piling up. Where a ReLU follows, only
what it lets through is wanted (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks",
section 3.2, without their relaxation): an output that the dense network has below zero may be
anything below zero.

Memory: activations of one pass over all samples (`samples_within` says how many fit), the targets
of every layer (`ROW_BYTES` per row, or a few rows per input where that is more; each effort has its
own), and the patches of one layer, rows x inputs in float32. Layers with too few rows for their
inputs keep the weights that they have.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.precision import at_least_single
from autoprune.data import Samples
from autoprune.reconstruction.ridge import Affine, RidgeToPrior, passing
from autoprune.statistics.moments import draw_positions, is_laid_out, outputs_at, patches
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import run
from autoprune.structure.layers import LAYER_KINDS
from autoprune.structure.surgery import Keep
from autoprune.structure.tracing.operators import OperatorMode, plain_arithmetic, whole_operators

# Of a row's targets on average: layers of more outputs get fewer rows, unless they need them.
ROW_BYTES = 256
# Rows per input that a fit needs so as not to learn the samples by heart; twice as many are drawn.
ENOUGH = 2
# How many of the largest activations are alive at once.
ALIVE = 4
# BN gains |γ|/σ below this share of the layer's largest do not amplify shortcut errors.
SMALLEST_GAIN = 0.05


@dataclass(frozen=True)
class Effort:
    """What a repair may take.

    Attributes:
        samples: most that it runs on; None for all that fit.
        rows: of every layer's least-squares problem, where there are so many positions.
        rounds: times that outputs behind a clamp are asked again what they may be. More fit the
            samples better and other images worse.
    """

    samples: int | None
    rows: int
    rounds: int


THOROUGH_EFFORT = Effort(samples=None, rows=64_000, rounds=3)
# A tenth of the time. With no round it prefers other networks than the thorough repair does.
QUICK_EFFORT = Effort(samples=500, rows=8_000, rounds=1)


@dataclass(frozen=True, eq=False)
class Target:
    """What the dense network had at a layer's sampled positions.

    Attributes:
        positions: (samples, positions).
        outputs: of the layer, (rows, channels).
        shortcut: what is added to it behind its BN, (rows, channels); None if nothing is.
    """

    positions: Tensor
    outputs: Tensor
    shortcut: Tensor | None


class _Walk(OperatorMode):
    """A forward pass that stops at every refittable layer."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        self._model = model
        self._layers = {layer.weight: layer for layer in structure.layers if _can_refit(layer)}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        # How many layers are still to read each shortcut: it is let go after the last.
        self._readers = Counter(layer.shortcut for layer in self._layers.values())
        self._shortcuts: dict[int | None, Tensor] = {}

    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        layer = None
        if name in LAYER_KINDS:
            layer = self._layers.get(self._names.get(id(self.origin(args[1])), ""))
        if layer is None:
            out = func(*args, **kwargs)
        else:
            if is_laid_out(layer, args[0]):
                known = layer if number == layer.number else _alone(layer)
                out = self.visit(known, func, args, kwargs, self._shortcuts.get(known.shortcut))
            else:
                out = func(*args, **kwargs)
            self._readers[layer.shortcut] -= 1
            if not self._readers[layer.shortcut]:
                self._shortcuts.pop(layer.shortcut, None)
        if self._readers[number]:
            self._shortcuts[number] = out
        return out

    def visit(
        self,
        layer: LayerSpec,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        shortcut: Tensor | None,
    ) -> Tensor:
        """Run one layer."""
        raise NotImplementedError

    def run(self, samples: Samples) -> None:
        """Run all samples as one batch."""
        with plain_arithmetic(), whole_operators(), self:
            run(self._model, samples.inputs)


def _can_refit(layer: LayerSpec) -> bool:
    return layer.refittable and layer.calls == 1 and not layer.is_transposed


def _alone(layer: LayerSpec) -> LayerSpec:
    """Return a layer where operators are counted otherwise: what is added to it is not known."""
    return layer if layer.shortcut is None else replace(layer, shortcut=None, clamp=None)


class SequentialRepair:
    """Repairs networks cut from one dense network; its targets are recorded at first use.

    Attributes:
        samples: what it repairs on.
    """

    def __init__(
        self,
        dense: nn.Module,
        structure: Structure,
        calibration: Samples,
        seed: int,
        effort: Effort = THOROUGH_EFFORT,
    ) -> None:
        """Take the samples, which must fit into one pass: see `samples_within`."""
        self._dense = dense
        self._structure = structure
        self.samples = calibration.first(effort.samples or len(calibration))
        self._seed = seed
        self._effort = effort
        self._targets: Mapping[str, Target] | None = None
        self._lock = Lock()  # candidates are built in several threads

    def with_effort(self, effort: Effort) -> SequentialRepair:
        """Return the same on no more samples, at another effort."""
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
        rows = min(_rows(self._effort.rows, outputs, inputs), positions)
        fitted = _can_refit(layer) and rows >= ENOUGH * inputs
        return positions * outputs * inputs + fitted * (rows + inputs) * inputs**2

    def repair(self, small: nn.Module, keep: Keep) -> None:
        """Refit every layer of a cut network in network order, in place.

        Args:
            small: the cut network; its weights are the prior.
            keep: the entries that stayed.
        """
        with self._lock:
            if self._targets is None:
                recording = _Recording(self._dense, self._structure, self._seed, self._effort.rows)
                recording.run(self.samples)
                self._targets = recording.targets
        refitting = _Refitting(
            small, self._dense, self._structure, keep, self._targets, self._effort.rounds
        )
        refitting.run(self.samples)


def samples_within(structure: Structure, memory: int) -> int:
    """Return of how many samples all activations of one pass fit into so many bytes.

    `ALIVE` of the largest are alive at once.
    """
    largest = max(
        layer.runs * math.prod(shape) * structure.itemsizes[layer.weight]
        for layer in structure.layers
        for shape in (layer.input_shape, layer.output_shape)
    )
    return max(1, int(memory / (ALIVE * largest)))


def _rows(most: int, outputs: int, inputs: int) -> int:
    """Return how many rows to draw for a layer."""
    return max(min(most, most * ROW_BYTES // (4 * outputs)), 2 * ENOUGH * inputs)


class _Recording(_Walk):
    def __init__(self, dense: nn.Module, structure: Structure, seed: int, rows: int) -> None:
        super().__init__(dense, structure)
        self._rows = rows
        self._generator = torch.Generator().manual_seed(seed)
        self.targets: dict[str, Target] = {}

    def visit(
        self,
        layer: LayerSpec,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        shortcut: Tensor | None,
    ) -> Tensor:
        out: Tensor = func(*args, **kwargs)
        per_sample = -(-_rows(self._rows, *args[1].flatten(1).shape) // len(out))
        chosen = draw_positions(layer, len(out), per_sample, self._generator)
        added = None if shortcut is None else outputs_at(layer, shortcut, chosen)
        self.targets[layer.weight] = Target(chosen, outputs_at(layer, out, chosen), added)
        return out


class _Refitting(_Walk):
    def __init__(
        self,
        small: nn.Module,
        dense: nn.Module,
        structure: Structure,
        keep: Keep,
        targets: Mapping[str, Target],
        rounds: int,
    ) -> None:
        super().__init__(small, structure)
        self._dense = dense
        self._keep = keep
        self._targets = targets
        self._rounds = rounds

    def visit(
        self,
        layer: LayerSpec,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        shortcut: Tensor | None,
    ) -> Tensor:
        source, weight = args[0], self._model.get_parameter(layer.weight)
        target = self._targets[layer.weight]
        if target.positions.numel() < ENOUGH * weight[0].numel():
            kept: Tensor = func(*args, **kwargs)
            return kept
        if layer.batchnorm is not None:
            # Targets are the dense network's raw outputs: its statistics are wanted, too.
            self._set_statistic(layer, "running_mean")
            self._set_statistic(layer, "running_var")
        wanted = self._wanted_outputs(layer, target, shortcut)
        shifts = layer.absorbs_mean or getattr(self._module(layer), "bias", None) is not None
        inputs = patches(layer, source, target.positions)
        problem = RidgeToPrior(inputs, weight.flatten(1), shifts)
        problem.fit(wanted)
        if layer.clamp is not None and self._rounds:
            targets = passing(wanted, self._into_clamp(layer, target, shortcut), layer.clamp)
            for _ in range(self._rounds):
                problem.fit(targets(problem.outputs()))
        weight.copy_(problem.weight.reshape(weight.shape))
        if shifts:
            self._place(layer, problem.intercept)
        bias = self._module(layer).bias
        # In the precision that the layer is called in.
        bias = None if bias is None else bias.to(source.dtype)
        out: Tensor = func(source, weight.to(source.dtype), bias, *args[3:], **kwargs)
        return out

    def _module(self, layer: LayerSpec) -> Any:
        return self._model.get_submodule(layer.name)

    def _wanted_outputs(self, layer: LayerSpec, target: Target, shortcut: Tensor | None) -> Tensor:
        rows = self._keep.get(layer.weight, {}).get(layer.out_dim)
        wanted = at_least_single(target.outputs if rows is None else target.outputs[:, rows])
        if target.shortcut is None or shortcut is None:
            return wanted
        dense = target.shortcut if rows is None else target.shortcut[:, rows]
        error = dense - outputs_at(layer, shortcut, target.positions)
        return wanted + error / self._gain(layer)

    def _gain(self, layer: LayerSpec) -> Tensor:
        """Return γ/σ of the BN behind a layer; infinite where it is too small to divide by."""
        if layer.batchnorm is None:
            return torch.ones(())
        bn = self._model.get_submodule(layer.batchnorm)
        assert isinstance(bn, _BatchNorm) and bn.running_var is not None
        gain = (at_least_single(bn.running_var) + bn.eps).rsqrt()
        gain = gain if bn.weight is None else gain * bn.weight
        return torch.where(gain.abs() <= SMALLEST_GAIN * gain.abs().max(), torch.inf, gain)

    def _into_clamp(self, layer: LayerSpec, target: Target, shortcut: Tensor | None) -> Affine:
        """Return how a layer's raw outputs are scaled and shifted on their way into its clamp."""
        gain, shift = self._gain(layer), torch.zeros(())
        if layer.batchnorm is not None:
            bn = self._model.get_submodule(layer.batchnorm)
            assert isinstance(bn, _BatchNorm) and bn.running_mean is not None
            shift = -gain * bn.running_mean
            shift = shift if bn.bias is None else shift + bn.bias
        if target.shortcut is not None and shortcut is not None:
            shift = shift + outputs_at(layer, shortcut, target.positions)
        return gain, shift

    def _place(self, layer: LayerSpec, intercept: Tensor) -> None:
        """Put a layer's intercept into its bias, or into the BN behind it."""
        module = self._module(layer)
        if module.bias is not None:
            module.bias.copy_(intercept)
        else:
            assert layer.batchnorm is not None
            # The layer's raw output lacks the intercept: the BN must subtract less.
            self._set_statistic(layer, "running_mean", -intercept)

    def _set_statistic(self, layer: LayerSpec, what: str, change: Tensor | float = 0.0) -> None:
        """Give the BN behind a layer the dense network's statistic, changed by so much."""
        name = f"{layer.batchnorm}.{what}"
        rows = self._keep.get(name, {}).get(0)
        dense = self._dense.get_buffer(name)
        self._model.get_buffer(name).copy_((dense if rows is None else dense[rows]) + change)
