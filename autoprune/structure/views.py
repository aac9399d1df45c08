"""Views whose sizes a forward pass names: they are numbered, and some sizes can be inferred.

A module with inferred sizes gets a class that derives from its own and runs the same forward pass
under a mode that writes -1 in the place of these sizes. It can be copied, pickled, exported and
trained as before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.core.view_sizes import InferredSize

VIEWS = frozenset({Tensor.view, Tensor.reshape, torch.reshape})

Dims = dict[int, int]
"""Place of the size to be inferred, by the number of the view."""

DIMS = "_inferred_dims"
"""Attribute of modules with inferred sizes."""


Call = Callable[[list[Any]], Any]
"""Runs a view with some sizes."""


class ViewMode(TorchFunctionMode):
    """Hands every view that Python code calls to `view`, with the sizes that it names.

    Views of tensors with one dimension, which hold no batch, are left out.
    """

    @abstractmethod
    def view(self, call: Call, sizes: list[Any], shape: torch.Size) -> Any:
        """Run a view and return its result.

        Args:
            call: runs it with other sizes, or the same.
            sizes: those that it names; none where it is told a type or keyword arguments instead.
            shape: of the tensor that is viewed.
        """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function."""
        tensor: Any = args[0] if args else (kwargs or {}).get("input")
        # A range of positions, of which a module may make a table in its first pass only.
        if func not in VIEWS or tensor.dim() < 2:
            return func(*args, **(kwargs or {}))
        named = [] if kwargs else _sizes(args[1:])

        def call(sizes: list[Any]) -> Any:
            given = args if sizes is named else (args[0], tuple(sizes))
            return func(*given, **(kwargs or {}))

        return self.view(call, named, tensor.shape)


def _sizes(arguments: tuple[Any, ...]) -> list[Any]:
    """Return the sizes among a view's arguments; none if it is told something else, a type."""
    sizes = arguments
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        sizes = tuple(arguments[0])
    return [] if any(isinstance(one, torch.dtype) for one in sizes) else list(sizes)


def first_inferable(sizes: Sequence[int], shape: Sequence[int]) -> int:
    """Return the place from which on any one size of a view can be inferred; their number if none.

    A size that is inferred already can be named instead where it is that of the viewed tensor at
    the same place, as the tokens are in `kv(x).view(b, -1, heads, width)`.
    """
    if len(sizes) < 2 or any(one == 0 for one in sizes):
        return len(sizes)
    if -1 not in sizes:
        return 0
    place, named = sizes.index(-1), -prod(sizes)
    is_own = tuple(sizes[:place]) == tuple(shape[:place]) and place < len(shape)
    return place + 1 if is_own and shape[place] * named == prod(shape) else len(sizes)


def infer_sizes(model: nn.Module, inferred: Iterable[InferredSize]) -> None:
    """Let modules of a network infer sizes of their views, in place."""
    by_module: dict[str, Dims] = {}
    for one in inferred:
        by_module.setdefault(one.module, {})[one.view] = one.dim
    for path, dims in by_module.items():
        module: Any = model.get_submodule(path)
        kind: Any = type(module)
        vars(module)[DIMS] = {**vars(module).get(DIMS, {}), **dims}
        module.__class__ = _inferring(kind)


class _InferringMode(ViewMode):
    """Infers a size of some views, by their numbers; one that was inferred is the tensor's own."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self._dims, self._numbers = dims, count()

    def view(self, call: Call, sizes: list[Any], shape: torch.Size) -> Any:
        """Run a view."""
        dim = self._dims.get(next(self._numbers), len(sizes))
        if dim >= len(sizes):
            return call(sizes)
        named = [shape[d] if isinstance(n, int) and n < 0 else n for d, n in enumerate(sizes)]
        return call([*named[:dim], -1, *named[dim + 1 :]])


class _Inferring(nn.Module):
    """What a module's class derives from, before its own, once sizes of its views are inferred."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the module's own class: the one that is made here has no name."""
        found: Any = super().__reduce_ex__(protocol)
        return _empty, (type(self).__mro__[2],), *found[2:]


def _empty(kind: Any) -> nn.Module:
    made = _inferring(kind)
    return made.__new__(made)


@cache
def _inferring(kind: type[nn.Module]) -> type[nn.Module]:
    if issubclass(kind, _Inferring):
        return kind

    @wraps(kind.forward)  # torch.export and trainers read the names of its arguments
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _InferringMode(vars(self)[DIMS]):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (_Inferring, kind), {"forward": forward})
