"""Weights that are computed in the forward pass instead of being parameters.

Masks of `torch.nn.utils.prune`, weight and spectral normalisation, other parametrizations and
low-rank adapters recompute a layer's weight in every forward pass. Its channels are not entries of
a parameter, so the layer stays whole; the reason says how to make the weight permanent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from autoprune.errors import listed
from autoprune.structure.tracing.call import Call

_PARAMETRIZED = "parametrizations"
# Hooks that compute a tensor before a forward pass: the attribute that holds the tensor's name, a
# name of the hook for messages, and the call that makes the tensor a parameter again.
_HOOKS: dict[type, tuple[str, str, str]] = {
    BasePruningMethod: ("_tensor_name", "torch.nn.utils.prune masks", "prune.remove(module, {!r})"),
    WeightNorm: ("name", "torch.nn.utils.weight_norm", "remove_weight_norm(module, {!r})"),
    SpectralNorm: ("name", "torch.nn.utils.spectral_norm", "remove_spectral_norm(module, {!r})"),
}


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


def describe_computation(model: nn.Module, names: frozenset[str]) -> str:
    """Describe how a tensor is computed and how to make it a parameter."""
    path = owner_of(names)
    module = model.get_submodule(path)
    whose = f"{path}'s" if path else "the network's"
    for leaf, what, undo in _known_ways(module):
        if any(_is_of(name, path, leaf) for name in names):
            return f"{whose} {leaf} is computed by {what}: make it permanent with {undo}"
    found = listed(sorted(names))
    return f"{whose} weight is computed from {found}: make the result one parameter"


def _known_ways(module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Yield tensors that PyTorch computes in a module: name, by what, and the call to undo it."""
    for hook in module._forward_pre_hooks.values():
        for kind, (attribute, what, undo) in _HOOKS.items():
            if isinstance(hook, kind):
                leaf = getattr(hook, attribute)
                yield leaf, what, f"torch.nn.utils.{undo.format(leaf)}"
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        for leaf, steps in lists.items():
            what = " and ".join(type(step).__name__.lstrip("_") for step in steps)
            undo = f"torch.nn.utils.parametrize.remove_parametrizations(module, {leaf!r})"
            yield leaf, f"the parametrization {what}", undo


def _is_of(name: str, path: str, leaf: str) -> bool:
    """Say whether a module's tensor is computed from a tensor: weight_orig, weight_g, …."""
    inside = name.removeprefix(f"{path}.")
    return inside.startswith((f"{leaf}_", f"{_PARAMETRIZED}.{leaf}."))
