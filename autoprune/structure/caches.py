"""Tensors that modules compute from their parameters once and keep for later forward passes.

In evaluation mode a module may keep a table that it looks up in a parameter (attention biases by
position). A network cut from one that has run would use the old table, of the old size. Such
modules drop it when they are put in training mode, in which the parameter changes; so they are put
in training mode for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def drop_caches(model: nn.Module) -> None:
    """Let modules drop what they keep, in place; their modes stay."""
    for module in [*_keeping(model)]:
        modes = [(one, one.training) for one in module.modules()]
        module.train()
        module.train(modes[0][1])  # what it makes for evaluation is made again
        for one, mode in modes:
            one.training = mode


def has_caches(model: nn.Module) -> bool:
    """Say whether modules keep such tensors."""
    return any(True for _ in _keeping(model))


def _keeping(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules with a dictionary of tensors that do something in training mode."""
    known = vars(nn.Module())  # buffers and the like are no caches
    for module in model.modules():
        own = (value for name, value in vars(module).items() if name not in known)
        if type(module).train is not nn.Module.train and any(map(_is_kept, own)):
            yield module


def _is_kept(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(type(one) is Tensor for one in value.values())
