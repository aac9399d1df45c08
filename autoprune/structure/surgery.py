"""Physical removal of channels: the result is a smaller network without masks."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from autoprune.core.bypass import Bypass, is_dropped
from autoprune.core.edits import Numbers
from autoprune.core.policy import PruningPolicy
from autoprune.core.slices import Slice
from autoprune.core.view_sizes import InferredSize
from autoprune.errors import ModelError, user_code
from autoprune.structure.attention import is_sizable, read_own_sizes
from autoprune.structure.attributes import set_numbers
from autoprune.structure.caches import drop_caches, has_caches
from autoprune.structure.inputs import device_of
from autoprune.structure.layers import update_sizes
from autoprune.structure.policy_checks import check_fits
from autoprune.structure.views import infer_sizes

Keep = Mapping[str, Mapping[int, Tensor]]
"""Kept entries of every tensor that shrinks, by tensor name and dimension."""


def cut(
    model: nn.Module,
    keep: Keep,
    weights: Mapping[str, Tensor] | None = None,
    numbers: Numbers | None = None,
    bypasses: Iterable[Bypass] = (),
    inferred: Iterable[InferredSize] = (),
) -> nn.Module:
    """Return a smaller copy of a network; the network itself is not changed.

    Args:
        model: the dense network.
        keep: kept entries of tensors (see `kept_positions`).
        weights: tensors of the small network (refitted weights, added biases) that replace sliced
            ones; a bias that the dense layer lacks is created.
        numbers: values of attributes in the small network (see `PruningPolicy.numbers`).
        bypasses: modules that the small network does without.
        inferred: sizes of views that the small network infers.
    """
    weights = weights or {}
    memo: dict[int, Any] = {}
    tensors = named_tensors(model)
    for name, tensor in tensors.items():
        small = tensor.detach()
        if name in weights:
            # A copy, because the value may be in a cache of solutions.
            small = weights[name].detach().to(small, copy=True)
        elif name in keep:
            for dim, positions in keep[name].items():
                small = small.index_select(dim, positions)
        else:
            small = small.clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(small, tensor.requires_grad) if is_parameter else small
    small_model = deep_copy(model, memo)
    for path in {name.rpartition(".")[0] for name in keep}:
        outputs = keep.get(f"{path}.weight", {}).get(0)
        update_sizes(small_model.get_submodule(path), outputs)
    set_numbers(small_model, numbers or {})
    infer_sizes(small_model, inferred)
    for name in weights.keys() - tensors.keys():
        _assign(small_model, name, weights[name])
    for bypass in bypasses:
        small_model.set_submodule(bypass.module, _without(small_model, bypass))
    return small_model


class Zeros(nn.Module):
    """Gives zeros in the shape of its first input: the end of a branch that is gone."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


def _without(model: nn.Module, bypass: Bypass) -> nn.Module:
    """Return what stands for a module: its children that stay, under their names, or zeros."""
    module = model.get_submodule(bypass.module)
    children = OrderedDict((name, module.get_submodule(name)) for name in bypass.through)
    small = Zeros() if bypass.zero else nn.Sequential(children)
    return small.train(module.training)


def deep_copy(model: nn.Module, memo: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a network in any state.

    Tensors with a graph, which a training step may have left on a module, are copied without it;
    caches are left out.

    Args:
        model: the network; it is not changed.
        memo: existing copies, by the `id` of the original.

    Raises:
        ModelError: something on the network cannot be copied.
    """
    with user_code(_cannot_be_copied), _WithoutGraphs():
        copied = copy.deepcopy(model, {**_empty_dicts(model), **(memo or {})})
        drop_caches(copied)
    return copied


def _cannot_be_copied(reason: str) -> ModelError:
    return ModelError(
        f"the network cannot be copied: {reason}; remove from its modules what cannot be copied, "
        "or give it a __deepcopy__."
    )


class _WithoutGraphs(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors that are results of a computation."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]


def _empty_dicts(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy` with copies of a network's empty dictionaries.

    Every module has a dozen of them (mostly for hooks), which take most of the time of a deep copy.
    """
    return {
        id(value): type(value)()
        for module in model.modules()
        for value in vars(module).values()
        if type(value) in (dict, OrderedDict) and not value
    }


def apply_policy(model: nn.Module, policy: PruningPolicy) -> nn.Module:
    """Cut a network according to a policy, after checking that it was made for this network.

    Raises:
        ModelError: the network's tensors, or numbers on its modules, differ from those that the
            policy was made for.
    """
    check_ready(model)
    check_fits(model, named_tensors(model), policy)
    keep = kept_positions(model, policy)
    return cut(with_own_sizes(model), keep, **policy.changes)


def check_ready(model: nn.Module) -> None:
    """Check that a network has all of its weights.

    Raises:
        ModelError: a lazy layer has never seen an input.
    """
    for name, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in module.parameters(recurse=False)):
            raise ModelError(
                f"layer {name!r}, a {type(module).__name__}, has no weights yet: it gets them when "
                "the network is run once."
            )


def kept_positions(model: nn.Module, policy: PruningPolicy) -> Keep:
    """Return the tensor entries that a policy keeps.

    Buffers that forward passes create or resize may be missing in this network or have another
    size; these are not cut.
    """
    tensors = named_tensors(model)
    stays: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for group in policy.groups.values():
        gone = np.ones(group.size, bool)
        gone[list(group.kept)] = False
        if gone.any():
            for s in group.slices:
                if is_dropped(s.tensor, policy.bypasses):
                    continue
                if _is_other_buffer(tensors.get(s.tensor), s):
                    continue
                size = tensors[s.tensor].shape[s.dim]
                mask = stays.setdefault((s.tensor, s.dim), np.ones(size, bool))
                mask[s.positions[gone]] = False
    keep: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in stays.items():
        positions = torch.from_numpy(np.flatnonzero(mask))
        keep.setdefault(name, {})[dim] = positions.to(tensors[name].device)
    return keep


def _is_other_buffer(tensor: Tensor | None, part: Slice) -> bool:
    if isinstance(tensor, nn.Parameter):
        return False
    return (
        tensor is None or tensor.dim() <= part.dim or part.positions.max() >= tensor.shape[part.dim]
    )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers, each tied tensor once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def with_own_sizes(model: nn.Module) -> nn.Module:
    """Return a network that can be cut: a copy with `SizedAttention` and no caches, or itself."""
    if not any(map(is_sizable, model.modules())) and not has_caches(model):
        return model
    copied = deep_copy(model)
    for module in filter(is_sizable, copied.modules()):
        read_own_sizes(module)
    return copied


def replica(model: nn.Module) -> nn.Module:
    """Return a copy of the modules that shares the parameters and buffers."""
    return deep_copy(model, {id(tensor): tensor for tensor in named_tensors(model).values()})


def add_biases(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Create the biases that reconstruction added, in place, with zeros to be overwritten."""
    own = model.state_dict()
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "bias" and name not in own and path in dict(model.named_modules()):
            _assign(model, name, torch.zeros_like(value))


def add_buffers(
    model: nn.Module, tensors: Mapping[str, Tensor], names: Iterable[str], policy: PruningPolicy
) -> None:
    """Create the buffers that forward passes created or resized, with values to be overwritten.

    Args:
        model: a cut network that may never have run; changed in place.
        tensors: tensors of the same network after forward passes.
        names: names of its buffers.
        policy: the policy by which both were cut; the tensors that it cuts have the right size.
    """
    own, device = model.state_dict(), device_of(model)
    sized = {part.tensor for group in policy.groups.values() for part in group.slices}
    for name in names:
        resized = name not in sized and name in own and own[name].shape != tensors[name].shape
        if resized or name not in own:
            path, _, leaf = name.rpartition(".")
            empty = torch.empty_like(tensors[name], device=device)
            model.get_submodule(path).register_buffer(leaf, empty)


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    like = next(module.parameters()) if old is None else old
    # A copy, because the value may be in a cache of solutions, and networks are written to.
    own = value.detach().to(like, copy=True)
    is_parameter = isinstance(like, nn.Parameter)
    setattr(module, leaf, nn.Parameter(own, like.requires_grad) if is_parameter else own)
