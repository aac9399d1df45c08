"""Unwrapping of networks; refusal of networks that are not Python modules and cannot be cut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoprune.errors import ModelError
from autoprune.structure.surgery import named_tensors

_COMPILED = "_orig_mod"


def plain_network(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers for several devices or for compilation.

    Raises:
        ModelError: the network is scripted, exported, compiled in parts, or on the meta device.
    """
    while (inner := _inside(model)) is not None:
        model = inner
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
        if _COMPILED in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
            raise ModelError(
                f"{_describe(path)} is compiled by torch.compile: pass the network without it, and "
                "compile the pruned one."
            )
    empty = next((name for name, t in named_tensors(model).items() if t.is_meta), None)
    if empty is not None:
        raise ModelError(
            f"the network's {empty!r} is on the meta device, where it has no values: load "
            "its weights first, e.g. model.to_empty(device='cpu') and model.load_state_dict(…)."
        )
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    """Return the network inside a wrapper; None if it has no wrapper."""
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        inner: nn.Module = model.module
        return inner
    if isinstance(model, torch.jit.ScriptModule):
        return None  # its modules are not a dictionary
    return model._modules.get(_COMPILED)


def _is_recorded(module: nn.Module) -> bool:
    """Say whether a module holds a graph of ATen operators (graphs of torch.fx call modules)."""
    graph = getattr(module, "graph", None)
    return isinstance(graph, torch.fx.Graph) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes
    )


def _describe(path: str) -> str:
    return f"the network's {path!r}" if path else "the network"
