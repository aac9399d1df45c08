"""Integers that modules hold in plain instance attributes: reading, checking and setting them.

They may lie in an object that a module holds: "config.num_heads". Such an object is often shared by
all modules; one whose integers are set gets a copy of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from autoprune.core.edits import AttributeEdit, Number, Numbers
from autoprune.errors import ModelError, shown

# Tuples of subclasses (named tuples) are not made from a list of their entries.
_SEVERAL = (tuple, list, torch.Size)


# Objects with attributes that are no settings.
_NO_SETTINGS = (type, nn.Module, torch.Tensor, FunctionType, MethodType, ModuleType)


def settings_of(module: nn.Module) -> Iterator[str]:
    """Yield the names of integers in objects that a module holds: "config.num_heads"."""
    for name, value in vars(module).items():
        if hasattr(value, "__dict__") and not isinstance(value, _NO_SETTINGS):
            yield from (f"{name}.{own}" for own in vars(value))


def _holder(module: nn.Module, attribute: str) -> tuple[dict[str, Any], str]:
    """Return the attributes among which one lies, which are empty if they are not there."""
    holder, _, name = attribute.rpartition(".")
    found = vars(module)
    return (getattr(found.get(holder), "__dict__", {}) if holder else found), name


def number_of(module: nn.Module, attribute: str) -> Number | None:
    """Return the integers in an instance attribute; None if it holds anything else, or nothing."""
    own, name = _holder(module, attribute)
    value = own.get(name)
    if type(value) is int:
        return value
    if type(value) in _SEVERAL and value and all(type(one) is int for one in value):
        return tuple(value)
    return None


def set_numbers(model: nn.Module, numbers: Numbers) -> None:
    """Set attributes of a network's modules, in place; lists and sizes stay what they are."""
    for (path, attribute), value in numbers.items():
        module = model.get_submodule(path)
        if holder := attribute.rpartition(".")[0]:
            vars(module)[holder] = copy.copy(vars(module)[holder])
        own, name = _holder(module, attribute)
        kind: Any = type(own[name])
        own[name] = kind(value)


def check_edits(model: nn.Module, edits: Iterable[AttributeEdit]) -> None:
    """Check that modules hold the integers that edits change.

    Raises:
        ModelError: an attribute is not there, or holds something else.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for edit in edits:
        module = modules.get(edit.module, nn.Module())
        own, name = _holder(module, edit.attribute)
        if name not in own:
            held = "which is not there"
        elif number_of(module, edit.attribute) != edit.value:
            held = f"which is {shown(own[name])} here"
        else:
            continue
        raise ModelError(
            f"the policy was made for another network than {type(model).__name__}: it changes "
            f"{shown(edit.name)} from {shown(edit.value)}, {held}."
        )
