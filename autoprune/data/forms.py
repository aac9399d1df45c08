"""Inputs of a network: a tensor, or nested tuples and dicts of tensors, samples first in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.errors import DataError, type_of

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


def plain(inputs: Any, what: str = "a batch's inputs") -> Inputs:
    """Normalise inputs: lists become tuples, mappings dicts, and a tuple of one tensor that tensor.

    Args:
        inputs: inputs from the user's code.
        what: name of the inputs in messages.

    Raises:
        DataError: they contain something other than tensors whose first dimensions are equal.
    """
    found: Inputs = _plain(inputs, what)
    lengths = {len(one) for one in tensors(found)}
    if len(lengths) > 1:
        raise DataError(
            f"{what} must have the samples in their first dimension, but they have the shapes "
            f"{described(found)}."
        )
    return found


def _plain(inputs: Any, what: str) -> Any:
    if isinstance(inputs, Tensor) and inputs.dim():
        return inputs
    if isinstance(inputs, Mapping) and inputs:
        return {key: _plain(value, f"{what} {key!r}") for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)) and inputs:
        parts = tuple(_plain(value, what) for value in inputs)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Tensor) else parts
    found = "a number" if isinstance(inputs, Tensor) else type_of(inputs)
    raise DataError(
        f"{what} must be a tensor, or tuples or dicts of tensors, with the samples in the first "
        f"dimension, but got {found}; leave out what the network does not take."
    )


def tensors(inputs: Inputs) -> list[Tensor]:
    """Return the tensors in inputs, in order."""
    return tree_leaves(inputs)


def map_tensors(change: Callable[..., Any], *inputs: Inputs) -> Any:
    """Apply a function to every tensor in inputs, or to the tensors of several inputs together."""
    return tree_map(change, *inputs)


def with_floats(inputs: Inputs, dtype: torch.dtype) -> Any:
    """Return inputs with floating tensors in one precision; integer tensors stay."""
    return map_tensors(lambda one: one.to(dtype) if one.is_floating_point() else one, inputs)


def sample_shapes(inputs: Inputs) -> Any:
    """Return the shapes of one sample as lists, nested as the tensors are."""
    return map_tensors(lambda one: list(one.shape[1:]), inputs)


def described(inputs: Inputs) -> str:
    """Describe the shapes of inputs: "(2, 3, 8, 8)", "image (2, 1, 8, 8), vector (2, 6)"."""
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {described(value)}" for key, value in inputs.items())
    return ", ".join(map(described, inputs))
