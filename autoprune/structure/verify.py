"""The numerical test of a structure: a group cut away equals a group whose readers ignore it.

Zeroing the columns with which the consumers read some units must change the dense network exactly
as cutting these units does, in all that layers read and write. A constant in a forward pass
(`view(-1, 2048)`, a split at channel 24) breaks this, sometimes silently; such a group is frozen,
whatever the trace believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from autoprune.errors import ModelError, first_line
from autoprune.structure.exact import exact, exact_arithmetic
from autoprune.structure.groups import ChannelGroup, LayerSpec, Structure
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.noise import WithoutChance, fixed_seeds
from autoprune.structure.observation import Observation, Observer, Tolerance, disagreement
from autoprune.structure.operators import plain_arithmetic, whole_operators
from autoprune.structure.probes import WAYS, Kept, probes
from autoprune.structure.surgery import check_ready, cut, kept_positions, named_tensors
from autoprune.structure.trace import trace
from autoprune.structure.training import in_training_mode

# Where the network runs in float64, rounding is far below any fault.
EXACT = Tolerance(relative=1e-6, floor=1e-10)
# Where it does not, by its own type of number.
COARSE = {torch.float32: Tolerance(relative=1e-3, floor=1e-4)}
COARSEST = Tolerance(relative=5e-2, floor=2e-2)
# By how much numbers of the tested copy are moved, as a share of their mean size.
MOVED = 0.1


def analyze(
    model: nn.Module,
    example_inputs: Inputs,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Structure:
    """Return the network's verified structure: traced, then all groups tested in several ways.

    Args:
        model: any network in evaluation mode.
        example_inputs: as for `trace`.
        progress: told the number of tests done and their total.

    Raises:
        ModelError: a layer has no weights yet, or the forward pass fails or gives NaN.
    """
    check_ready(model)
    with plain_arithmetic(), fixed_seeds(0):
        structure = trace(model, example_inputs)
        _check_finite(model, sample(example_inputs, 2))
        structure = CutTest(model, example_inputs).verified(structure, progress)
        return _tested_in_training(model, example_inputs, structure)


def _tested_in_training(model: nn.Module, inputs: Inputs, structure: Structure) -> Structure:
    """Note which groups are wrong in training mode, where other layers run there."""
    training = structure.training
    if not training.layers or training.failure:
        return structure
    tested = CutTest(in_training_mode(model), inputs).verified(structure)
    wrong = {f.name: f.reason for f in tested.frozen[len(structure.frozen) :]}
    return replace(structure, training=replace(training, wrong=wrong))


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
        observer.seen.outputs = _outputs(outputs)
        return observer.seen

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
            if all(map(_is_finite, found.observe(found.model, {}, {}, 2).outputs)):
                return found
    return Specimen(model, example_inputs, False, COARSE.get(_type_of(model), COARSEST))


class CutTest:
    """Tests hypotheses about which units of a network can be cut."""

    def __init__(self, model: nn.Module, example_inputs: Inputs) -> None:
        """Take a network in the mode in which it is to be tested."""
        self._dense = specimen(model, example_inputs)

    def verified(
        self,
        structure: Structure,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Structure:
        """Return the structure with all groups frozen that are found wrong."""
        for done, kept in enumerate(probes(structure.groups)):
            batch = 2 + done % 2
            if self._disagree(structure, structure.groups, kept, batch):
                wrong = self._wrong_alone(structure, structure.groups, kept, batch)
                structure = self._freeze_interplay(structure.frozen_by(wrong), kept, batch)
            progress(done + 1, len(WAYS))
        return structure

    def _disagree(
        self, structure: Structure, groups: Sequence[ChannelGroup], kept: Kept, batch: int
    ) -> str | None:
        return self.difference(structure, {g.name: kept[g.name] for g in groups}, batch)

    def _wrong_alone(
        self, structure: Structure, groups: Sequence[ChannelGroup], kept: Kept, batch: int
    ) -> dict[str, str]:
        """Return the groups that are wrong, and why: none of those that are right together."""
        reason = self._disagree(structure, groups, kept, batch)
        if reason is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        quarter = -(-len(groups) // 4)  # finds one wrong group as soon as halves, many sooner
        parts = (groups[i : i + quarter] for i in range(0, len(groups), quarter))
        found = (self._wrong_alone(structure, part, kept, batch) for part in parts)
        return {name: why for part in found for name, why in part.items()}

    def _freeze_interplay(self, structure: Structure, kept: Kept, batch: int) -> Structure:
        """Freeze groups that are right alone but wrong when cut together with others."""

        def reason(count: int) -> str | None:
            return self._disagree(structure, structure.groups[:count], kept, batch)

        while reason(len(structure.groups)):
            low, high = 0, len(structure.groups)  # the first `low` agree, the first `high` do not
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if reason(middle) else (middle, high)
            culprit = structure.groups[high - 1].name
            why = f"together with other groups, {reason(high)}"
            structure = structure.frozen_by({culprit: why})
        return structure

    def difference(
        self, structure: Structure, kept: Mapping[str, Sequence[int]], batch: int = 2
    ) -> str | None:
        """Say how a cut network differs from the one whose consumers ignore what was cut.

        Args:
            structure: with the groups that are cut.
            kept: units that stay, by group name; other groups stay whole.
            batch: number of samples.

        Returns:
            What is different, None if nothing is.
        """
        if not kept:
            return None
        policy = structure.policy([kept.get(g.name, range(g.size)) for g in structure.groups])
        model = self._dense.model
        keep = kept_positions(model, policy)
        zeroed = _zero_readers(model, structure, kept)
        layers = {one.weight: one for one in (*structure.layers, *structure.training.layers)}
        try:
            small = self._dense.observe(cut(model, keep), {}, layers, batch)
        except Exception as error:
            return (
                "the forward pass fails once it is cut "
                f"({type(error).__name__}: {first_line(error)})"
            )
        dense = self._dense.observe(model, zeroed, layers, batch)
        found = disagreement(dense, small, keep, layers, self._dense.tolerance)
        if found is None:
            return None
        if self._dense.is_random:
            return "its forward pass is random"
        return f"the forward pass assumes its size: {found}"


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


def _outputs(value: Any) -> list[Tensor]:
    return list(outputs_of(value).values())


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _check_finite(model: nn.Module, inputs: Any) -> None:
    with torch.no_grad():
        if not all(map(_is_finite, _outputs(run(model, inputs)))):
            raise ModelError(
                "the dense model's outputs are not finite: "
                + (_not_finite(model) or "the example inputs make them overflow.")
            )


def _not_finite(model: nn.Module) -> str | None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"its weights hold NaN or infinity in {name!r}."
    return None
