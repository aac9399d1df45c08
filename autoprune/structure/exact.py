"""Forward passes in float64, whatever type of number the network asks for on its way.

Rounding then decides nothing where a cut network is compared with the dense one: a half-precision
network, one that casts to float32 for its normalisations or one under autocast is as exact as any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COARSE = {torch.float16, torch.bfloat16, torch.float32}


class Exact(TorchDispatchMode):
    """Runs under a forward pass of a float64 network: no operator falls back to fewer digits."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        # A copy of a view, or of what is written to, would be another tensor.
        shares = func._schema.is_mutable or func.is_view
        change = _exact_type if shares else exact
        named = {name: _changed(change, value) for name, value in (kwargs or {}).items()}
        return func(*(_changed(change, value) for value in args), **named)


def _changed(change: Callable[[Any], Any], argument: Any) -> Any:
    # An operator's arguments are nested no deeper; walking a tree of any kind takes far longer.
    return list(map(change, argument)) if isinstance(argument, (list, tuple)) else change(argument)


def _exact_type(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf in COARSE else leaf


def exact(leaf: Any) -> Any:
    """Return a tensor of coarse floats in float64, float64 for such a type, else the same."""
    if isinstance(leaf, Tensor) and leaf.dtype in COARSE:
        return leaf.double()
    return _exact_type(leaf)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Every operator in float64, tensors that are made without a type included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Exact():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)
