"""New weights for a network, by its modules' own rules."""

from __future__ import annotations

from torch import nn

from autoprune.errors import ModelError, listed
from autoprune.structure.surgery import deep_copy


def reinitialize(network: nn.Module) -> nn.Module:
    """Return a copy in which every module with parameters has begun again by `reset_parameters`.

    Args:
        network: it is not changed.

    Raises:
        ModelError: a module with parameters of its own has no such method.
    """
    copy = deep_copy(network)
    lacking = []
    for path, module in copy.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            lacking.append(path or type(module).__name__)
    if lacking:
        raise ModelError(
            f"how weights begin is not known for {listed(lacking)}: training from scratch needs "
            "modules with reset_parameters()."
        )
    return copy
