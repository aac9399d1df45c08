"""Whether a policy was made for a network: its tensors, numbers and modules are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy, hash_shapes
from autoprune.core.slices import Slice
from autoprune.errors import ModelError, shown
from autoprune.structure.attributes import check_edits


def check_fits(model: nn.Module, tensors: Mapping[str, Tensor], policy: PruningPolicy) -> None:
    """Check that a policy was made for a network.

    Args:
        model: the network.
        tensors: its parameters and buffers, each tied tensor once.
        policy: the policy.

    Raises:
        ModelError: the network's tensors, numbers on its modules, or the modules themselves differ
            from those that the policy was made for.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    parameters = {name: shapes[name] for name, _ in model.named_parameters()}
    # Policies of earlier versions count buffers, too.
    agrees = policy.shapes_hash in (hash_shapes(parameters), hash_shapes(shapes))
    slices = [s for group in policy.groups.values() for s in group.slices]
    # A buffer that a forward pass creates can be missing from the same network.
    named = (s for s in slices if s.tensor in shapes or s.role != "carried" or not agrees)
    misfit = next(filter(None, (_misfit(s, shapes) for s in named)), None)
    if misfit or not agrees:
        first = misfit or "in one that is not pruned, such as the last layer's"
        raise ModelError(
            f"the policy was made for another network than {type(model).__name__}: "
            f"tensor names or shapes differ (first difference: {first})."
        )
    check_edits(model, policy.edits)
    _check_modules(model, policy)


def _check_modules(model: nn.Module, policy: PruningPolicy) -> None:
    """Check that a network has the modules that a policy changes or does without.

    Raises:
        ModelError: a module is not there, or lacks a child that is to stay.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    named = [one.module for one in policy.bypasses] + [one.module for one in policy.inferred]
    named += [f"{one.module}.{name}" for one in policy.bypasses for name in one.through]
    for path in named:
        if path not in modules:
            raise ModelError(
                f"the policy was made for another network than {type(model).__name__}: it "
                f"names the module {shown(path)}, which is not there."
            )


def _misfit(part: Slice, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return what a network lacks of the entries that a slice names; None if it has them all."""
    tensor = shown(part.tensor)
    if part.tensor not in shapes:
        return f"{tensor} is not there"
    shape = shapes[part.tensor]
    if part.dim >= len(shape) or part.positions.max() >= shape[part.dim]:
        needed = f"{int(part.positions.max()) + 1} entries along dimension {part.dim}"
        return f"{tensor} has shape {tuple(shape)}, where the policy names {needed}"
    return None
