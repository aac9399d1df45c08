"""Weights that are computed in the forward pass instead of being parameters.

A forward pass that masks, normalises or adds to a layer's weight (low-rank adapters) computes it
every time. Its channels are not entries of a parameter, so the layer stays whole. What PyTorch's
own utilities compute is no such case any more: `structure.plain_weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from torch import Tensor

from autoprune.errors import listed
from autoprune.structure.tracing.call import Call

_PARAMETRIZED = "parametrizations"


class Origins:
    """Follows tensors that are computed from parameters and buffers alone."""

    def __init__(self, name: Callable[[Tensor], str | None]) -> None:
        """Take a function that names parameters and buffers."""
        self._name = name
        self._known: dict[int, frozenset[str]] = {}

    def record(self, call: Call) -> None:
        """Record one operator; the caller must keep its tensors alive."""
        found = [self.of(tensor) for tensor in call.inputs()]
        sources = [names for names in found if names is not None]
        if len(sources) == len(found):
            union = frozenset[str]().union(*sources)
            self._known |= {id(out): union for out in call.outputs() if self._name(out) is None}

    def of(self, tensor: Tensor) -> frozenset[str] | None:
        """Return what a tensor is computed from; None if inputs of the network are involved."""
        name = self._name(tensor)
        return self._known.get(id(tensor)) if name is None else frozenset([name])


def owner_of(names: frozenset[str]) -> str:
    """Return the path of the innermost module that contains all of these tensors."""
    levels = zip(*(_owner(name.split(".")) for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _owner(parts: list[str]) -> list[str]:
    return parts[: parts.index(_PARAMETRIZED)] if _PARAMETRIZED in parts else parts[:-1]


def describe_computation(names: frozenset[str]) -> str:
    """Describe how a tensor is computed and how to make it a parameter."""
    path = owner_of(names)
    whose = f"{path}'s" if path else "the network's"
    found = listed(sorted(names))
    return f"{whose} weight is computed from {found}: make the result one parameter"
