"""Which modules run: the one whose forward pass calls an operator, and those around it.

The views that they call are numbered, in each module from 0 on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.structure.views import Call, ViewMode, first_inferable


@dataclass(frozen=True)
class NamedView:
    """A view that a module's forward pass calls.

    Attributes:
        module: path of the module that calls it.
        number: its number in that module's forward pass.
        sizes: those that it names, -1 for one that it infers.
        inferable: the first that it could infer instead.
    """

    module: str
    number: int
    sizes: tuple[int, ...]
    inferable: int


class ModuleStack:
    """Paths of the modules that are running, outermost first, while `watching` is entered.

    Attributes:
        view: the view that is running; None if there is none, or it names no sizes.
        views: the sizes that the views named so far, in each module, also by modules inside it.
    """

    def __init__(self) -> None:
        self.view: NamedView | None = None
        self.views: dict[str, list[list[Any]]] = {}
        self._running: list[str] = []
        self._read: list[tuple[Tensor, ...]] = []
        # Views that were called so far in each of them.
        self._views: list[int] = []

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths at this moment; the network's own is ""."""
        return tuple(self._running)

    @property
    def read(self) -> tuple[Tensor, ...]:
        """The tensors that the innermost module was called with."""
        return self._read[-1] if self._read else ()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch a network's modules; the network is left unchanged."""
        with ExitStack() as stack:
            for path, module in model.named_modules():
                with suppress(Exception):  # scripted modules take no hooks
                    for hook in self._hooks(path, module):
                        stack.callback(hook.remove)
            stack.enter_context(_NumberingMode(self))
            yield
        self._running.clear()
        self._read.clear()
        self._views.clear()

    @contextmanager
    def viewing(self, sizes: list[Any], shape: Sequence[int]) -> Iterator[None]:
        """Number a view of a tensor that names some sizes, while it runs."""
        if self._running and sizes:
            own = tuple(map(int, sizes))
            place = first_inferable(own, shape)
            self.view = NamedView(self._running[-1], self._views[-1], own, place)
        self._views = [count + 1 for count in self._views]
        for path in self._running:
            self.views.setdefault(path, []).append(sizes)
        yield
        self.view = None

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        def enter(_: Any, args: Any, kwargs: Any) -> None:
            self._running.append(path)
            leaves = tree_leaves((args, kwargs))
            self._read.append(tuple(leaf for leaf in leaves if isinstance(leaf, Tensor)))
            self._views.append(0)

        def leave(*_: Any) -> None:
            self._running.pop()
            self._read.pop()
            self._views.pop()

        yield module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
        yield module.register_forward_hook(leave, always_call=True)


class _NumberingMode(ViewMode):
    """Tells a stack of modules which view is running."""

    def __init__(self, modules: ModuleStack) -> None:
        super().__init__()
        self._modules = modules

    def view(self, call: Call, sizes: list[Any], shape: Sequence[int]) -> Any:
        """Run a view as it is."""
        with self._modules.viewing(sizes, shape):
            return call(sizes)
