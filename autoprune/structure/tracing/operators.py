"""A look at every operator of a forward pass, numbered in the order in which they run.

The same network runs the same operators in the same order whatever its widths: an operator's number
names an activation in the dense network and in every network cut from it. Only what comes of a
layer's output is numbered. What a forward pass makes beside it (grids, masks, position ids) may be
made at one run and remembered at the next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.structure.layers import has_weights
from autoprune.structure.tracing.noise import NOISE, PASSING, operator_name
from autoprune.structure.tracing.rules import find_rule

CASTS = ("to", "_to_copy")


class OperatorMode(TorchDispatchMode):
    """Runs under a forward pass with `whole_operators` and hands every operator on.

    Those that read what comes of a layer go to `operate`, all others to `aside`. Composite
    operators that have no rule of their own are taken apart. A parameter in another precision
    (autocast makes one before every layer) passes for the parameter: see `origin`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = 0
        # Memory of what comes of layers. Weak references: no other memory gets its address.
        self._fed: set[StorageWeakRef] = set()
        # With the results, or Python would give their ids to other tensors.
        self._casts: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def origin(self, tensor: Any) -> Any:
        """Return the parameter that a tensor is a cast of, anything else itself."""
        return self._casts[id(tensor)][1] if id(tensor) in self._casts else tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See one operator."""
        kwargs = dict(kwargs or {})
        name = operator_name(func)
        if name in CASTS and isinstance(args[0], nn.Parameter):
            cast: Tensor = func(*args, **kwargs)
            self._casts[id(cast)] = cast, args[0]
            return cast
        if find_rule(name, func) is None and name not in NOISE:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        is_fed = self._is_fed(name, (args, kwargs))
        if is_fed and name not in NOISE:
            self._count += 1
            out = self.operate(self._count - 1, name, func, args, kwargs)
        else:
            out = self.aside(name, func, args, kwargs)
        if is_fed:
            self._fed.update(map(_memory, _tensors(out)))
        return out

    def _is_fed(self, name: str, arguments: Any) -> bool:
        """Say whether an operator's results depend on a layer's output."""
        if has_weights(name):
            return True
        is_made = name.endswith("_like") or name.startswith("new_")
        if is_made or (name in NOISE and name not in PASSING):
            return False
        return any(_memory(tensor) in self._fed for tensor in _tensors(arguments))

    @abstractmethod
    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator (name without in-place underscore) and return its result."""

    def aside(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator that has no number."""
        return func(*args, **kwargs)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


@contextmanager
def whole_operators() -> Iterator[None]:
    """Composite operators (`linear`, `batch_norm`) reach a dispatch mode whole; no gradients.

    As in `torch.inference_mode`, but tensors are ordinary ones: what a forward pass keeps (a grid
    on a module, a table in a cache) can be trained with later. Nothing is noted of views, which a
    mode that answers with tensors of its own could not bear.
    """
    with torch.no_grad(), torch._C._AutoDispatchBelowADInplaceOrView():
        yield


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """No fused attention, which hides its operators, and no TF32, which is coarser than a fault."""
    fused = torch.backends.mha.get_fastpath_enabled()
    coarse = torch.backends.cuda.matmul.allow_tf32
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.backends.cuda.matmul.allow_tf32 = coarse
