"""A network in the form in which its structure is tested: in float64 where it runs in that."""

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

from autoprune.errors import first_line
from autoprune.structure.exact import exact, exact_arithmetic
from autoprune.structure.groups import LayerSpec, Structure
from autoprune.structure.inputs import Inputs, outputs_of, sample
from autoprune.structure.observation import Observation, Observer, Tolerance, disagreement
from autoprune.structure.surgery import cut, deep_copy, kept_positions, named_tensors
from autoprune.structure.tracing.noise import WithoutChance, fixed_seeds
from autoprune.structure.tracing.operators import whole_operators

# Where the network runs in float64, rounding is far below any fault.
EXACT = Tolerance(relative=1e-6, floor=1e-10)
# Of the same network in float32.
CLOSE = Tolerance(relative=1e-4, floor=1e-6)
# Where it does not run in float64, by its own type of number.
COARSE = {torch.float32: Tolerance(relative=1e-3, floor=1e-4)}
COARSEST = Tolerance(relative=5e-2, floor=2e-2)
# By how much numbers of the tested copy are moved, as a share of their mean size.
MOVED = 0.1


@dataclass(frozen=True, eq=False)
class Specimen:
    """A network in the form in which it is tested.

    Attributes:
        model: the network or a copy.
        inputs: its example inputs.
        is_exact: whether it runs in float64 throughout.
        tolerance: how far numbers may differ that ought to be equal.
    """

    model: nn.Module
    inputs: Inputs
    is_exact: bool
    tolerance: Tolerance

    def observe(
        self,
        model: nn.Module,
        changed: Mapping[str, Tensor],
        layers: Mapping[str, LayerSpec],
        batch: int,
        seed: int = 0,
    ) -> Observation:
        """Run the network, or one cut from it, with some of its tensors changed."""
        names = {id(t): name for name, t in {**named_tensors(model), **changed}.items()}
        observer = Observer(names, layers)
        args, kwargs = _call_arguments(sample(self.inputs, batch))
        with (
            fixed_seeds(seed),
            whole_operators(),
            observer,
            exact_arithmetic() if self.is_exact else nullcontext(),
            WithoutChance(),  # type: ignore[no-untyped-call]
        ):
            outputs = functional_call(model, dict(changed), args, kwargs)
        observer.seen.outputs = list(outputs_of(outputs).values())
        return observer.seen

    def difference(
        self, structure: Structure, kept: Mapping[str, Sequence[int]], batch: int
    ) -> str | None:
        """See `verify.CutTest.difference`."""
        if not kept:
            return None
        policy = structure.policy([kept.get(g.name, range(g.size)) for g in structure.groups])
        keep = kept_positions(self.model, policy)
        layers = {one.weight: one for one in (*structure.layers, *structure.training.layers)}
        try:
            small = self.observe(cut(self.model, keep), {}, layers, batch)
        except Exception as error:
            return (
                "the forward pass fails once it is cut "
                f"({type(error).__name__}: {first_line(error)})"
            )
        zeroed = _zero_readers(self.model, structure, kept)
        dense = self.observe(self.model, zeroed, layers, batch)
        found = disagreement(dense, small, keep, layers, self.tolerance)
        if found is None:
            return None
        if self.is_random:
            return "its forward pass is random"
        return f"the forward pass assumes its size: {found}"

    @cached_property
    def is_random(self) -> bool:
        """Whether two runs of the dense network differ."""
        one, other = (self.observe(self.model, {}, {}, 2, seed).outputs for seed in (0, 1))
        return any(
            a.shape != b.shape or not self.tolerance.agree(a, b, range(a.dim()))
            for a, b in zip(one, other, strict=True)
        )


def specimen(model: nn.Module, example_inputs: Inputs) -> Specimen:
    """Return a network in the most exact form that its forward pass bears.

    That is a copy in float64 whose weights are moved a little, since those of an untrained network
    may be zero or all the same, as example inputs may be; else the network as it is.
    """
    for prepare in (_moved, _exact_copy):
        with suppress(Exception):
            inputs = tree_map(_varied, example_inputs)
            found = Specimen(prepare(model), inputs, True, EXACT)
            if all(map(is_finite, found.observe(found.model, {}, {}, 1).outputs)):
                return found
    return Specimen(model, example_inputs, False, COARSE.get(_type_of(model), COARSEST))


def in_single(exact: Specimen, structure: Structure) -> Specimen | None:
    """Return a network of float64 in float32, which is several times as fast.

    None if it does not run in both, or if float32 cannot hold its numbers.
    """
    if not exact.is_exact:
        return None
    layers = {one.weight: one for one in structure.layers}
    with suppress(Exception):
        inputs = tree_map(_single, exact.inputs)
        found = Specimen(deep_copy(exact.model).float(), inputs, False, CLOSE)
        seen = found.observe(found.model, {}, layers, 1)
        inside = (tensor for pair in seen.layers.values() for tensor in pair)
        if all(map(is_finite, (*inside, *seen.outputs))):
            return found
    return None


def _type_of(model: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floats, torch.float32)


def _exact_copy(model: nn.Module) -> nn.Module:
    return cut(model, {}).double()


def _moved(model: nn.Module) -> nn.Module:
    """Return a copy in float64 with all weights moved away from zero."""
    copied = _exact_copy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.dtype == torch.float64:
                step = _steps(parameter)
                parameter.add_(torch.where(parameter < 0, -step, step))
    return copied


def _varied(leaf: Any) -> Any:
    """Return an input in float64; not all the same values."""
    leaf = exact(leaf)
    if not isinstance(leaf, Tensor) or leaf.dtype != torch.float64 or leaf.numel() < 2:
        return leaf
    return leaf + _steps(leaf) if bool((leaf == leaf.flatten()[0]).all()) else leaf


def _single(leaf: Any) -> Any:
    is_double = isinstance(leaf, Tensor) and leaf.dtype == torch.float64
    return leaf.float() if is_double else leaf


def _steps(tensor: Tensor) -> Tensor:
    """Return random positive numbers, small beside a tensor's values unless these are all zero."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).abs().to(tensor)
    size = tensor.square().mean().sqrt()
    return MOVED * steps * torch.where(size > 0, size, 1.0)


def _zero_readers(
    model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Return the weights of all layers that read units which are cut, with zeros for these."""
    in_training = {(layer.weight, layer.in_dim) for layer in structure.training.layers}
    zeroed: dict[str, Tensor] = {}
    for name, units in kept.items():
        group = structure.groups[structure.index[name]]
        gone = np.setdiff1d(np.arange(group.size), units)
        carried = (s for s in group.slices if (s.tensor, s.dim) in in_training)
        for s in (*group.consumers, *carried):
            if s.tensor not in zeroed:
                zeroed[s.tensor] = model.get_parameter(s.tensor).detach().clone()
            positions = torch.from_numpy(s.positions[gone].reshape(-1))
            zeroed[s.tensor].index_fill_(s.dim, positions.to(zeroed[s.tensor].device), 0.0)
    return zeroed


def _call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def is_finite(tensor: Tensor) -> bool:
    """Say whether no number is infinite or NaN."""
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
