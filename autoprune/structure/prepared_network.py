"""A network prepared for the numerical verification: in float64 wherever it runs in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from autoprune.errors import ModelError, chain, describe, first_line, ran_out_of_memory
from autoprune.structure.comparison import Recording, RecordingMode, Tolerance, find_difference
from autoprune.structure.float64 import float64_arithmetic, to_float64
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import Inputs, outputs_of, sample
from autoprune.structure.mixed import Columns, columns_left
from autoprune.structure.surgery import cut, deep_copy, kept_positions, named_tensors
from autoprune.structure.tracing.determinism import DeterministicMode, fixed_seeds
from autoprune.structure.tracing.operators import OperatorMode, whole_operators

# In float64, where rounding is far below any fault.
FLOAT64_TOLERANCE = Tolerance(relative=1e-6, floor=1e-10)
# For the float32 copy of a network that also runs in float64.
FLOAT32_TOLERANCE = Tolerance(relative=1e-4, floor=1e-6)
# For networks that do not run in float64, by their own precision.
NATIVE_TOLERANCES = {torch.float32: Tolerance(relative=1e-3, floor=1e-4)}
LOW_PRECISION_TOLERANCE = Tolerance(relative=5e-2, floor=2e-2)
# Size of the perturbation of the tested copy's weights, relative to their root mean square.
PERTURBATION = 0.1

FAILS = "the forward pass fails once it is cut"
"""How the reason begins if a cut network does not run, whatever its numbers would be."""


@dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A network with its inputs, ready to be compared with networks cut from it.

    Attributes:
        model: the network or a copy of it.
        inputs: its example inputs.
        is_float64: whether it runs in float64 throughout.
        tolerance: how far values that should be equal may differ.
    """

    model: nn.Module
    inputs: Inputs
    is_float64: bool
    tolerance: Tolerance

    def record(
        self,
        model: nn.Module,
        changed: Mapping[str, Tensor],
        layers: Mapping[str, LayerSpec],
        batch: int,
        seed: int = 0,
        columns: Columns | None = None,
    ) -> Recording:
        """Run this network, or one cut from it, and record its layers.

        Args:
            model: the network.
            changed: tensors to replace, by name.
            layers: layers to record, by the name of their weight.
            batch: number of samples.
            seed: seed of all randomness.
            columns: operators that run on some of their channels only.
        """
        mode = RecordingMode(tensor_names(model, changed), layers, columns=columns)
        mode.recording.outputs = self.run(model, mode, batch, changed, seed)
        return mode.recording

    def run(
        self,
        model: nn.Module,
        mode: OperatorMode,
        batch: int,
        changed: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> list[Tensor]:
        """Run this network, or one cut from it, under a mode; return the outputs."""
        args, kwargs = _call_arguments(sample(self.inputs, batch))
        with (
            fixed_seeds(seed),
            whole_operators(),
            mode,
            float64_arithmetic() if self.is_float64 else nullcontext(),
            DeterministicMode(),  # type: ignore[no-untyped-call]
        ):
            # PyTorch's own search for tied tensors would swap those of a module with two names
            # twice, and leave it changed.
            places = _every_place(model, changed or {})
            outputs = functional_call(model, places, args, kwargs, tie_weights=False)
        return list(outputs_of(outputs).values())

    def difference(
        self, structure: Structure, kept: Mapping[str, Sequence[int]], batch: int
    ) -> str | None:
        """Describe how cutting groups changes the network, as `verify.CutTest.difference` does."""
        if not kept:
            return None
        policy = structure.policy([kept.get(g.name, range(g.size)) for g in structure.groups])
        keep = kept_positions(self.model, policy)
        layers = {one.weight: one for one in (*structure.layers, *structure.training.layers)}
        try:
            small = self.record(cut(self.model, keep, **policy.changes), {}, layers, batch)
        except Exception as error:
            _check_memory(error)
            return f"{FAILS} ({type(error).__name__}: {first_line(error)})"
        masked = masked_weights(self.model, structure, kept)
        left = columns_left(structure, kept)
        try:
            dense = self.record(self.model, masked, layers, batch, columns=left)
        except Exception as error:
            _check_memory(error)
            if not left:
                raise
            return f"the dense network does not run on fewer channels ({first_line(error)})"
        found = find_difference(dense, small, keep, layers, self.tolerance)
        if found is None:
            return None
        if self.is_random:
            return "its forward pass is random"
        return f"the forward pass assumes its size: {found}"

    @cached_property
    def is_random(self) -> bool:
        """Whether two runs of the dense network with different seeds differ."""
        one, other = (self.record(self.model, {}, {}, 2, seed).outputs for seed in (0, 1))
        return any(
            a.shape != b.shape or not self.tolerance.agree(a, b, range(a.dim()))
            for a, b in zip(one, other, strict=True)
        )


def _check_memory(error: Exception) -> None:
    """Refuse to take a lack of memory for a group that cannot be cut.

    Raises:
        ModelError: memory ran out.
    """
    cause = next((one for one in chain(error) if ran_out_of_memory(one)), None)
    if cause is not None:
        raise ModelError(
            f"which channels can be cut cannot be tested: {describe(cause)}; the tests run copies "
            "of the network in float64 on the example inputs: give smaller ones, or more memory."
        ) from error


def _every_place(model: nn.Module, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by every module that has the one that they replace, each module once."""
    replaced = {id(t): changed[name] for name, t in named_tensors(model).items() if name in changed}
    return {
        name: replaced[id(tensor)]
        for path, module in model.named_modules()
        for own in (module.named_parameters, module.named_buffers)
        for name, tensor in own(path, recurse=False, remove_duplicate=False)
        if id(tensor) in replaced
    }


def tensor_names(model: nn.Module, changed: Mapping[str, Tensor] | None = None) -> dict[int, str]:
    """Return the names of a network's tensors, some of them replaced, by `id`."""
    return {id(t): name for name, t in {**named_tensors(model), **(changed or {})}.items()}


def prepare(model: nn.Module, example_inputs: Inputs) -> PreparedNetwork:
    """Prepare a network for comparison in the highest precision that its forward pass supports.

    The first choice is a float64 copy with slightly perturbed weights, because the weights of an
    untrained network, and example inputs, may be zero or all equal; the last is the network itself.
    """
    for copy in (_perturbed_copy, _float64_copy):
        with suppress(Exception):
            inputs = tree_map(_varied, example_inputs)
            found = PreparedNetwork(copy(model), inputs, True, FLOAT64_TOLERANCE)
            if all(map(is_finite, found.record(found.model, {}, {}, 1).outputs)):
                return found
    return PreparedNetwork(model, example_inputs, False, _native_tolerance(model))


def in_float32(prepared: PreparedNetwork, structure: Structure) -> PreparedNetwork | None:
    """Return a float32 copy of a float64 network, which runs several times as fast.

    None if the network does not run in both precisions, or overflows in float32.
    """
    if not prepared.is_float64:
        return None
    layers = {one.weight: one for one in structure.layers}
    with suppress(Exception):
        inputs = tree_map(_to_float32, prepared.inputs)
        found = PreparedNetwork(deep_copy(prepared.model).float(), inputs, False, FLOAT32_TOLERANCE)
        recording = found.record(found.model, {}, layers, 1)
        inside = (tensor for pair in recording.layers.values() for tensor in pair)
        if all(map(is_finite, (*inside, *recording.outputs))):
            return found
    return None


def _native_tolerance(model: nn.Module) -> Tolerance:
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return NATIVE_TOLERANCES.get(next(dtypes, torch.float32), LOW_PRECISION_TOLERANCE)


def _float64_copy(model: nn.Module) -> nn.Module:
    return cut(model, {}).double()


def _perturbed_copy(model: nn.Module) -> nn.Module:
    """Return a float64 copy whose weights are all moved away from zero."""
    copied = _float64_copy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.dtype == torch.float64:
                step = _perturbation(parameter)
                parameter.add_(torch.where(parameter < 0, -step, step))
    return copied


def _varied(leaf: Any) -> Any:
    """Return an input in float64, perturbed if all of its values are equal."""
    leaf = to_float64(leaf)
    if not isinstance(leaf, Tensor) or leaf.dtype != torch.float64 or leaf.numel() < 2:
        return leaf
    return leaf + _perturbation(leaf) if bool((leaf == leaf.flatten()[0]).all()) else leaf


def _to_float32(leaf: Any) -> Any:
    is_double = isinstance(leaf, Tensor) and leaf.dtype == torch.float64
    return leaf.float() if is_double else leaf


def _perturbation(tensor: Tensor) -> Tensor:
    """Return random positive values, small relative to the tensor unless that is zero."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).abs().to(tensor)
    size = tensor.square().mean().sqrt()
    return PERTURBATION * steps * torch.where(size > 0, size, 1.0)


def masked_weights(
    model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Return the weights of all layers that read cut units, with zeros in place of those units."""
    in_training = {(layer.weight, layer.in_dim) for layer in structure.training.layers}
    masked: dict[str, Tensor] = {}
    for name, units in kept.items():
        group = structure.groups[structure.index[name]]
        gone = np.setdiff1d(np.arange(group.size), units)
        carried = (s for s in group.slices if (s.tensor, s.dim) in in_training)
        for s in (*group.consumers, *carried):
            if s.tensor not in masked:
                masked[s.tensor] = model.get_parameter(s.tensor).detach().clone()
            positions = torch.from_numpy(s.positions[gone].reshape(-1))
            masked[s.tensor].index_fill_(s.dim, positions.to(masked[s.tensor].device), 0.0)
    return masked


def _call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def is_finite(tensor: Tensor) -> bool:
    """Say whether a tensor holds neither infinity nor NaN."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
