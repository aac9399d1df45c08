"""Forward passes in float64, whatever precision the network asks for inside.

A cut network is compared with the dense one up to rounding. In float64 rounding never decides: a
half-precision network, one that casts to float32 for its normalisations, or one under autocast is
compared as exactly as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LOWER_PRECISIONS = {torch.float16, torch.bfloat16, torch.float32}


class Float64Mode(TorchDispatchMode):
    """Keeps the forward pass of a float64 network in float64: no operator rounds further."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator on float64 arguments."""
        # Converting a view, or a tensor that is written to, would make another tensor.
        shares = func._schema.is_mutable or func.is_view
        convert = _widen_dtype if shares else to_float64
        named = {name: _converted(convert, value) for name, value in (kwargs or {}).items()}
        return func(*(_converted(convert, value) for value in args), **named)


def _converted(convert: Callable[[Any], Any], argument: Any) -> Any:
    # Arguments of operators are nested no deeper, and walking a general tree takes far longer.
    if isinstance(argument, (list, tuple)):
        return list(map(convert, argument))
    return convert(argument)


def _widen_dtype(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf in LOWER_PRECISIONS else leaf


def to_float64(leaf: Any) -> Any:
    """Convert a floating tensor or dtype of lower precision to float64; return the rest as is."""
    if isinstance(leaf, Tensor) and leaf.dtype in LOWER_PRECISIONS:
        return leaf.double()
    return _widen_dtype(leaf)


@contextmanager
def float64_arithmetic() -> Iterator[None]:
    """Run every operator in float64, including those that create tensors without a dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Float64Mode():  # type: ignore[no-untyped-call]
            yield
    finally:
        torch.set_default_dtype(before)
