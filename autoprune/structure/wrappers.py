"""Networks inside wrappers, and networks that are no Python code and cannot be cut."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoprune.errors import ModelError
from autoprune.structure.surgery import named_tensors

_COMPILED = "_orig_mod"


def plain_network(model: nn.Module) -> nn.Module:
    """Return the network without what trains it on several devices or compiles it.

    Raises:
        ModelError: it is scripted, exported, compiled in parts, or has no values.
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
                f"{_words(path)} is a graph of operators recorded for fixed sizes (torch.export), "
                "which cannot be cut: pass the Python network that was exported."
            )
        if _COMPILED in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
            raise ModelError(
                f"{_words(path)} is compiled by torch.compile: pass the network without it, and "
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
    """Return the network in a wrapper, None if it is in none."""
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        inner: nn.Module = model.module
        return inner
    if isinstance(model, torch.jit.ScriptModule):
        return None  # whose modules are no dictionary
    return model._modules.get(_COMPILED)


def _is_recorded(module: nn.Module) -> bool:
    """Whether a module's graph calls ATen operators; one of torch.fx calls modules."""
    graph = getattr(module, "graph", None)
    return isinstance(graph, torch.fx.Graph) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes
    )


def _words(path: str) -> str:
    return f"the network's {path!r}" if path else "the network"
