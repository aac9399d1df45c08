"""The numerical test of a structure: a group cut away equals a group whose readers ignore it.

Zeroing the columns with which the consumers read some units must change the dense network exactly
as cutting these units does. A constant in a forward pass (`view(-1, 2048)`, a split at channel 24)
breaks this, sometimes silently; such a group is frozen, whatever the trace believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.errors import ModelError, first_line
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.inputs import Inputs, outputs_of, run, sample
from autoprune.structure.operators import plain_arithmetic
from autoprune.structure.surgery import check_ready, cut, kept_positions
from autoprune.structure.trace import trace

# Largest difference between cut and zeroed outputs, as a share of the largest output.
TOLERANCE = 1e-4


def analyze(
    model: nn.Module,
    example_inputs: Inputs,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Structure:
    """Return the network's verified structure: traced, each group tested, then all together.

    Args:
        model: any network in evaluation mode.
        example_inputs: as for `trace`.
        progress: told the number of groups tested and their total.

    Raises:
        ModelError: a layer has no weights yet, or the forward pass fails or gives NaN.
    """
    check_ready(model)
    with plain_arithmetic():
        structure = trace(model, example_inputs)
        _check_finite(model, sample(example_inputs, 2))
        reasons = {}
        for done, group in enumerate(structure.groups):
            reason = difference(model, structure, [group], sample(example_inputs, 2))
            if reason:
                reasons[group.name] = reason
            progress(done + 1, len(structure.groups))
        structure = structure.frozen_by(reasons)
        return _freeze_interplay(model, structure, sample(example_inputs, 3))


def difference(
    model: nn.Module, structure: Structure, groups: Sequence[ChannelGroup], inputs: Any
) -> str | None:
    """Cut half of the given groups' units; say how the result differs from zeroing, None if not.

    An odd number goes, so that no split into equal parts comes out even by chance.
    """
    rng = np.random.default_rng(0)
    kept = {
        group.name: sorted(rng.permutation(group.size)[group.size // 2 | 1 :].tolist())
        for group in groups
    }
    policy = structure.policy([kept.get(g.name, range(g.size)) for g in structure.groups])
    try:
        with torch.no_grad():
            small = _outputs(run(cut(model, kept_positions(model, policy)), inputs))
    except Exception as error:
        return (
            f"the forward pass fails once it is cut ({type(error).__name__}: {first_line(error)})"
        )
    with torch.no_grad():
        zeroed = _zero_consumers(model, groups, kept)
        dense = _outputs(functional_call(model, zeroed, *_call_arguments(inputs)))
    for a, b in zip(dense, small, strict=True):
        if a.shape != b.shape:
            return (
                f"the forward pass assumes its size: outputs change from {tuple(a.shape)} "
                f"to {tuple(b.shape)}"
            )
        is_number = a.is_floating_point() and a.numel() > 0
        if is_number and not torch.allclose(a, b, rtol=0, atol=TOLERANCE * float(a.abs().max())):
            return "the forward pass assumes its size: outputs of the cut network are wrong"
    return None


def _zero_consumers(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: dict[str, list[int]]
) -> dict[str, Tensor]:
    zeroed: dict[str, Tensor] = {}
    for group in groups:
        gone = np.setdiff1d(np.arange(group.size), kept[group.name])
        for s in group.consumers:
            if s.tensor not in zeroed:
                zeroed[s.tensor] = model.get_parameter(s.tensor).detach().clone()
            positions = torch.from_numpy(s.positions[gone].reshape(-1))
            zeroed[s.tensor].index_fill_(s.dim, positions.to(zeroed[s.tensor].device), 0.0)
    return zeroed


def _call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, dict) else (tuple(inputs), {})


def _outputs(value: Any) -> list[Tensor]:
    return list(outputs_of(value).values())


def _check_finite(model: nn.Module, inputs: Any) -> None:
    with torch.no_grad():
        for out in _outputs(run(model, inputs)):
            if out.is_floating_point() and not bool(out.isfinite().all()):
                raise ModelError(
                    "the dense model's outputs are not finite: "
                    + (_not_finite(model) or "the example inputs make them overflow.")
                )


def _not_finite(model: nn.Module) -> str | None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return f"its weights hold NaN or infinity in {name!r}."
    return None


def _freeze_interplay(model: nn.Module, structure: Structure, inputs: Any) -> Structure:
    """Freeze groups that are right alone but wrong when cut together with others."""
    while structure.groups and difference(model, structure, structure.groups, inputs):
        low, high = 0, len(structure.groups)  # the first `low` agree, the first `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            wrong = difference(model, structure, structure.groups[:middle], inputs)
            low, high = (low, middle) if wrong else (middle, high)
        reason = difference(model, structure, structure.groups[:high], inputs)
        culprit = structure.groups[high - 1].name
        structure = structure.frozen_by({culprit: f"together with other groups, {reason}"})
    return structure
