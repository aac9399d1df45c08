"""Unwrapping of networks; refusal of networks that are not Python modules and cannot be cut."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoprune.errors import ModelError, listed, type_of
from autoprune.structure.surgery import named_tensors, replica

_COMPILED = "_orig_mod"
_SHARDED = ("torch.distributed.fsdp", "torch.distributed.tensor")


def plain_network(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers for several devices or for compilation.

    Where only parts are wrapped or compiled, it is a copy of the modules without that, which shares
    the parameters and buffers.

    Raises:
        ModelError: the network is scripted, exported, sharded, or on the meta device.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    _check_python(model)
    return _without_wrapped_parts(model) if [*_wrapped_parts(model)] else model


def notes_on_wrappers(model: nn.Module) -> Iterator[str]:
    """Yield what to say of a network that is unwrapped."""
    if _inside(model) is not None:
        yield f"the network inside {type_of(model)} is searched, and returned without it"
    while (inner := _inside(model)) is not None:
        model = inner
    if parts := [path or "the whole network" for path in _wrapped_parts(model)]:
        yield f"searched, and returned, without wrapper or compilation: {listed(parts)}"


def _check_python(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the network is a TorchScript module, which cannot be cut: pass the Python network "
            "that torch.jit.script or torch.jit.trace was given."
        )
    for path, module in model.named_modules():
        if _is_recorded(module):
            raise ModelError(
                f"{_describe(path)} is a graph of operators recorded for fixed sizes "
                "(torch.export), which cannot be cut: pass the Python network that was exported."
            )
    if any(map(_is_sharded, (*model.modules(), *model.parameters()))):
        raise ModelError(
            "the network is sharded over devices (FSDP, DTensor), and no process has all of its "
            "weights: gather them with torch.distributed.checkpoint.state_dict."
            "get_model_state_dict and full_state_dict=True, load them into the plain network, and "
            "pass that."
        )
    empty = next((name for name, t in named_tensors(model).items() if t.is_meta), None)
    if empty is not None:
        raise ModelError(
            f"the network's {empty!r} is on the meta device, where it has no values: load "
            "its weights first, e.g. model.to_empty(device='cpu') and model.load_state_dict(…)."
        )


def _inside(model: nn.Module) -> nn.Module | None:
    """Return the network inside a wrapper; None if it has no wrapper."""
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        inner: nn.Module = model.module
        return inner
    if isinstance(model, torch.jit.ScriptModule):
        return None  # its modules are not a dictionary
    return model._modules.get(_COMPILED)


def _wrapped_parts(model: nn.Module) -> Iterator[str]:
    """Yield the paths of modules that are wrapped, or compiled in place."""
    for path, module in model.named_modules():
        if _inside(module) is not None or getattr(module, "_compiled_call_impl", None) is not None:
            yield path


def _without_wrapped_parts(model: nn.Module) -> nn.Module:
    plain = replica(model)  # a copy is not compiled in place
    for module in [*plain.modules()]:
        for name, child in module._modules.items():
            while child is not None and (inner := _inside(child)) is not None:
                child = module._modules[name] = inner
    return plain


def _is_recorded(module: nn.Module) -> bool:
    """Say whether a module holds a graph of ATen operators (graphs of torch.fx call modules)."""
    graph = getattr(module, "graph", None)
    return isinstance(graph, torch.fx.Graph) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes
    )


def _is_sharded(one: object) -> bool:
    # By name: importing these packages takes long, and few networks need them.
    return any(kind.__module__.startswith(_SHARDED) for kind in type(one).__mro__)


def _describe(path: str) -> str:
    return f"the network's {path!r}" if path else "the network"
