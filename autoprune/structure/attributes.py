"""Integers that modules hold in plain instance attributes: reading, checking and setting them.

They may lie in an object that a module holds: "config.num_heads". Such an object is often shared by
all modules; one whose integers are set gets a copy of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from autoprune.core.edits import AttributeEdit, Number, Numbers
from autoprune.errors import ModelError, shown

# Tuples of subclasses (named tuples) are not made from a list of their entries.
_SEVERAL = (tuple, list, torch.Size)


def settings_of(module: nn.Module) -> Iterator[str]:
    """Yield the names of integers in objects that a module holds: "config.num_heads"."""
    for name, value in vars(module).items():
        yield from (f"{name}.{own}" for own in vars(_copied(value)))


def _copied(value: Any) -> Any:
    """Return a copy of an object whose attributes are settings, or an object without any.

    They are none where a copy is the object itself, or shares its attributes: setting them would
    change all who use the object (members of enumerations, loggers, classes, functions).
    """
    if not hasattr(value, "__dict__") or isinstance(value, (nn.Module, torch.Tensor)):
        return SimpleNamespace()
    with suppress(Exception):  # modules of Python and open files cannot be copied
        copied = copy.copy(value)
        is_own = copied is not value and vars(copied) is not vars(value)
        if is_own and type(copied) is type(value):
            return copied
    return SimpleNamespace()


def _holder(module: nn.Module, attribute: str) -> tuple[Any, str]:
    """Return the module, or a copy of what it holds, that has an attribute, and its name there."""
    holder, _, name = attribute.rpartition(".")
    return (_copied(vars(module).get(holder)) if holder else module), name


def number_of(module: nn.Module, attribute: str) -> Number | None:
    """Return the integers in an instance attribute; None if it holds anything else, or nothing."""
    holder, name = _holder(module, attribute)
    value = vars(holder).get(name)
    if type(value) is int:
        return value
    if type(value) in _SEVERAL and value and all(type(one) is int for one in value):
        return tuple(value)
    return None


def set_numbers(model: nn.Module, numbers: Numbers) -> None:
    """Set attributes of a network's modules, in place; lists and sizes stay what they are."""
    for (path, attribute), value in numbers.items():
        module = model.get_submodule(path)
        holder, name = _holder(module, attribute)
        kind: Any = type(vars(holder)[name])
        vars(holder)[name] = kind(value)
        if holder is not module:
            vars(module)[attribute.rpartition(".")[0]] = holder


def check_edits(model: nn.Module, edits: Iterable[AttributeEdit]) -> None:
    """Check that modules hold the integers that edits change.

    Raises:
        ModelError: an attribute is not there, or holds something else.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for edit in edits:
        module = modules.get(edit.module, nn.Module())
        holder, name = _holder(module, edit.attribute)
        if name not in vars(holder):
            held = "which is not there"
        elif number_of(module, edit.attribute) != edit.value:
            held = f"which is {shown(vars(holder)[name])} here"
        else:
            continue
        raise ModelError(
            f"the policy was made for another network than {type(model).__name__}: it changes "
            f"{shown(edit.name)} from {shown(edit.value)}, {held}."
        )
