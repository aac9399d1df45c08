"""Weights that are no parameters: what they are computed from, by what, and how to undo that.

Masks of `torch.nn.utils.prune`, weight and spectral normalisation, other parametrizations and
low-rank adapters make a layer's weight anew in every forward pass. No entry of a parameter is one
of its channels, so that such a layer stays whole, and is named.
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
# Hooks that compute a tensor before a forward pass: where they keep its name, what they are, and
# what makes the tensor a parameter again.
_HOOKS: dict[type, tuple[str, str, str]] = {
    BasePruningMethod: ("_tensor_name", "torch.nn.utils.prune masks", "prune.remove(module, {!r})"),
    WeightNorm: ("name", "torch.nn.utils.weight_norm", "remove_weight_norm(module, {!r})"),
    SpectralNorm: ("name", "torch.nn.utils.spectral_norm", "remove_spectral_norm(module, {!r})"),
}


class Origins:
    """Follows the tensors that are computed from parameters and buffers alone."""

    def __init__(self, name: Callable[[Tensor], str | None]) -> None:
        """Take what tells the name of a parameter or buffer."""
        self._name = name
        self._known: dict[int, frozenset[str]] = {}

    def record(self, call: Call) -> None:
        """Note one operator; its tensors must stay alive."""
        found = [self.of(tensor) for tensor in call.inputs()]
        sources = [names for names in found if names is not None]
        if len(sources) == len(found):
            union = frozenset[str]().union(*sources)
            self._known |= {id(out): union for out in call.outputs() if self._name(out) is None}

    def of(self, tensor: Tensor) -> frozenset[str] | None:
        """Return the tensors of the network that one comes from, None if inputs are among them."""
        name = self._name(tensor)
        return self._known.get(id(tensor)) if name is None else frozenset([name])


def owner_of(names: frozenset[str]) -> str:
    """Return the path of the innermost module around all of these tensors."""
    levels = zip(*(_owner(name.split(".")) for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def _owner(parts: list[str]) -> list[str]:
    return parts[: parts.index(_PARAMETRIZED)] if _PARAMETRIZED in parts else parts[:-1]


def how_computed(model: nn.Module, names: frozenset[str]) -> str:
    """Return in words how a tensor is computed, and what makes it one of the network's own."""
    path = owner_of(names)
    module = model.get_submodule(path)
    whose = f"{path}'s" if path else "the network's"
    for leaf, what, undo in _known_ways(module):
        if any(_is_of(name, path, leaf) for name in names):
            return f"{whose} {leaf} is computed by {what}: make it permanent with {undo}"
    found = listed(sorted(names))
    return f"{whose} weight is computed from {found}: make the result one parameter"


def _known_ways(module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Yield what PyTorch computes in a module: a tensor's name, by what, and what undoes it."""
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
    """Whether a tensor is what a module's tensor is computed from: weight_orig, weight_g, …."""
    inside = name.removeprefix(f"{path}.")
    return inside.startswith((f"{leaf}_", f"{_PARAMETRIZED}.{leaf}."))
