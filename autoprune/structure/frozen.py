"""Parameters that the user froze, and modules that the user excluded from pruning.

Parameters with `requires_grad=False` (a constant kernel, a backbone that is not trained) keep their
values but are still sliced where channels are cut. An excluded module stays whole: its inputs,
outputs, weights and buffers.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.errors import UsageError, did_you_mean, spelt
from autoprune.structure.groups import ChannelGroup, Structure
from autoprune.structure.surgery import named_tensors


def frozen_tensors(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that do not require gradients."""
    return frozenset(name for name, p in model.named_parameters() if not p.requires_grad)


def is_entirely_frozen(model: nn.Module) -> bool:
    """Say whether no parameter requires gradients, as in a network that was made for inference."""
    return not any(parameter.requires_grad for parameter in model.parameters())


def freeze_only(model: nn.Module, frozen: Collection[str]) -> None:
    """Let all parameters but some require gradients, in place.

    Args:
        model: the network.
        frozen: names of the others.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and name not in frozen)


def running_statistics(model: nn.Module) -> frozenset[str]:
    """Return the names of the buffers of all BNs: running means, variances and counts."""
    return frozenset(
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name, _ in module.named_buffers(recurse=False)
    )


def excluded_tensors(model: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Return the parameters and buffers of excluded modules, tied ones by their first name.

    Args:
        model: the dense network.
        patterns: globs on module paths; a module stands for all modules inside it.

    Raises:
        UsageError: a pattern matches no module or tensor.
    """
    first = {id(tensor): name for name, tensor in named_tensors(model).items()}
    every = {name: first[id(tensor)] for name, tensor in _all_names(model)}
    chosen: set[str] = set()
    for pattern in patterns:
        chosen |= {every[name] for name in _named(every, pattern, "exclude")}
    return frozenset(chosen)


def check_named(model: nn.Module, patterns: Iterable[str], option: str) -> None:
    """Refuse patterns that name nothing in a network, before it is known what can be cut.

    Args:
        model: the dense network.
        patterns: globs on module paths.
        option: by which they were given.

    Raises:
        UsageError: a pattern matches no module or tensor.
    """
    names = [name for name, _ in _all_names(model)]
    for pattern in patterns:
        _named(names, pattern.partition("#")[0], option)  # the second group of a tensor has #2


def _named(names: Collection[str], pattern: str, option: str) -> list[str]:
    """Return the tensors that a pattern names."""
    found = [name for name in names if _is_named(name, pattern)]
    if not found:
        paths = {path for name in names for path in _paths(name)} - {*names}
        hint = did_you_mean(pattern, paths or names)
        raise UsageError(f"{spelt(option)}: no layer matches {pattern!r}; {hint}")
    return found


def freeze_excluded(structure: Structure, excluded: Collection[str]) -> Structure:
    """Freeze the groups that an excluded tensor belongs to."""
    reasons = {group.name: _reason(structure, group, excluded) for group in structure.groups}
    return structure.frozen_by({name: reason for name, reason in reasons.items() if reason})


def _all_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _paths(name: str) -> Iterator[str]:
    """Yield the modules around a tensor, outermost first, and the tensor itself."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _is_named(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for path in _paths(name))


def _reason(structure: Structure, group: ChannelGroup, excluded: Collection[str]) -> str | None:
    """Return how an excluded tensor belongs to a group; None if none does."""
    if group.producers[0] in excluded:
        return "excluded"
    parts = {s.role: s.tensor for s in group.slices if s.tensor in excluded}
    words = {"producer": "shares its channels with", "carried": "runs through", "consumer": "feeds"}
    for role, how in words.items():
        if role in parts:
            return f"{how} {_module(structure, parts[role])}, which is excluded"
    return None


def _module(structure: Structure, tensor: str) -> str:
    layer = structure.layer_of_weight.get(tensor)
    return layer.name if layer else tensor.rpartition(".")[0] or tensor
