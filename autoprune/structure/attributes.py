"""Integers that modules hold in plain instance attributes: reading, checking and setting them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autoprune.core.edits import AttributeEdit, Number, Numbers
from autoprune.errors import ModelError, shown

# Tuples of subclasses (named tuples) are not made from a list of their entries.
_SEVERAL = (tuple, list, torch.Size)


def number_of(module: nn.Module, attribute: str) -> Number | None:
    """Return the integers in an instance attribute; None if it holds anything else, or nothing."""
    value = vars(module).get(attribute)
    if type(value) is int:
        return value
    if type(value) in _SEVERAL and value and all(type(one) is int for one in value):
        return tuple(value)
    return None


def set_numbers(model: nn.Module, numbers: Numbers) -> None:
    """Set attributes of a network's modules, in place; lists and sizes stay what they are."""
    for (path, attribute), value in numbers.items():
        own = vars(model.get_submodule(path))
        kind: Any = type(own[attribute])
        own[attribute] = kind(value)


def check_edits(model: nn.Module, edits: Iterable[AttributeEdit]) -> None:
    """Check that modules hold the integers that edits change.

    Raises:
        ModelError: an attribute is not there, or holds something else.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for edit in edits:
        own = vars(modules[edit.module]) if edit.module in modules else {}
        if edit.attribute not in own:
            held = "which is not there"
        elif number_of(modules[edit.module], edit.attribute) != edit.value:
            held = f"which is {shown(own[edit.attribute])} here"
        else:
            continue
        raise ModelError(
            f"the policy was made for another network than {type(model).__name__}: it changes "
            f"{shown(edit.name)} from {shown(edit.value)}, {held}."
        )
