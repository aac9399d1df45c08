"""A dispatch mode that sees every operator of a forward pass and numbers those behind a layer.

A network runs the same operators in the same order at any width, so that an operator's number names
the same activation in the dense network and in every network cut from it. Only operators that
depend on a layer's output are numbered: whatever else a forward pass creates (grids, masks,
position ids) may be created in one run and taken from a cache in the next. Where residual branches
are gone, the numbers of their operators are left out.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.structure.layers import has_weights
from autoprune.structure.tracing.call import operator_name
from autoprune.structure.tracing.determinism import RANDOM_OPERATORS, UNBIASED
from autoprune.structure.tracing.rules import find_rule

CASTS = ("to", "_to_copy")


class OperatorMode(TorchDispatchMode):
    """Passes every operator to `operate` or `aside`; needs `whole_operators` around it.

    Operators that depend on a layer's output go to `operate`, all others to `aside`. Composite
    operators without a rule are decomposed. A parameter cast to another precision (autocast casts
    before every layer) is treated as the parameter: see `origin`.
    """

    def __init__(self, missing: Collection[int] = ()) -> None:
        """Take the numbers of the dense network's operators that this network does not run."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = (number for number in itertools.count() if number not in missing)
        # Memory of tensors that depend on a layer; weak references, so that addresses stay unique.
        self._fed: set[StorageWeakRef] = set()
        # Casts are kept alive, or Python would reuse their ids.
        self._casts: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def origin(self, tensor: Any) -> Any:
        """Return the parameter of which a tensor is a cast, or the tensor itself."""
        return self._casts[id(tensor)][1] if id(tensor) in self._casts else tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Number one operator and pass it on."""
        kwargs = dict(kwargs or {})
        name = operator_name(func)
        if name in CASTS and isinstance(args[0], nn.Parameter):
            cast: Tensor = func(*args, **kwargs)
            self._casts[id(cast)] = cast, args[0]
            return cast
        if find_rule(name, func) is None and name not in RANDOM_OPERATORS:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        is_fed = self._is_fed(name, (args, kwargs))
        if is_fed and name not in RANDOM_OPERATORS:
            out = self.operate(next(self._numbers), name, func, args, kwargs)
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
        if is_made or (name in RANDOM_OPERATORS and name not in UNBIASED):
            return False
        return any(_memory(tensor) in self._fed for tensor in _tensors(arguments))

    @abstractmethod
    def operate(self, number: int, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one numbered operator (name without in-place underscore) and return its result."""

    def aside(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator without a number."""
        return func(*args, **kwargs)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _memory(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


@contextmanager
def whole_operators() -> Iterator[None]:
    """Let composite operators (`linear`, `batch_norm`) reach dispatch modes whole; no gradients.

    Works as `torch.inference_mode`, but creates ordinary tensors: what a forward pass keeps (a grid
    on a module, a table in a cache) can be trained with later. Views are not tracked, because a
    mode may return tensors of its own type.
    """
    with torch.no_grad(), torch._C._AutoDispatchBelowADInplaceOrView():
        yield


class _Shared:
    """Something to be inside of that several threads may enter: the first in, the last out."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make, self._lock, self._inside = make, Lock(), 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._entered = self._make()
                self._entered.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._entered.__exit__(None, None, None)


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
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


_PLAIN = _Shared(_plain_arithmetic)  # the switches are the process's


def plain_arithmetic() -> AbstractContextManager[None]:
    """Switch off fused attention, which hides operators, and TF32, whose rounding hides faults."""
    return _PLAIN.entered()
