"""Views whose sizes a forward pass names: they are numbered, and some sizes can be inferred.

A module with inferred sizes gets a class that derives from its own and runs the same forward pass
under a mode that writes -1 in the place of these sizes. It can be copied, pickled, exported and
trained as before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache, wraps
from itertools import count
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
    """Hands every view that Python code calls to `view`, with the sizes that it names."""

    @abstractmethod
    def view(self, call: Call, sizes: list[Any]) -> Any:
        """Run a view and return its result.

        Args:
            call: runs it with other sizes, or the same.
            sizes: those that it names; none where it is told a type or keyword arguments instead.
        """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function."""
        if func not in VIEWS:
            return func(*args, **(kwargs or {}))
        named = [] if kwargs else _sizes(args[1:])

        def call(sizes: list[Any]) -> Any:
            given = args if sizes is named else (args[0], tuple(sizes))
            return func(*given, **(kwargs or {}))

        return self.view(call, named)


def _sizes(arguments: tuple[Any, ...]) -> list[Any]:
    """Return the sizes among a view's arguments; none if it is told something else, a type."""
    sizes = arguments
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        sizes = tuple(arguments[0])
    return [] if any(isinstance(one, torch.dtype) for one in sizes) else list(sizes)


def is_inferable(sizes: list[Any]) -> bool:
    """Say whether one of the sizes may be left out: none is yet, and none may be zero."""
    return len(sizes) > 1 and all(int(one) > 0 for one in sizes)


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
    """Infers a size of some views, by their numbers."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self._dims, self._numbers = dims, count()

    def view(self, call: Call, sizes: list[Any]) -> Any:
        """Run a view."""
        dim = self._dims.get(next(self._numbers), len(sizes))
        return call(sizes if dim >= len(sizes) else [*sizes[:dim], -1, *sizes[dim + 1 :]])


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
