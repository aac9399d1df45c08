"""Which modules run: the one whose forward pass calls an operator, and those around it.

The views that they call are numbered, in each module from 0 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune.structure.views import Call, ViewMode, is_inferable


@dataclass(frozen=True)
class NamedView:
    """A view that names all of its sizes, any one of which could be inferred.

    Attributes:
        module: path of the module that calls it.
        number: its number in that module's forward pass.
    """

    module: str
    number: int


class ModuleStack:
    """Paths of the modules that are running, outermost first, while `watching` is entered.

    Attributes:
        view: the view that is running; None if there is none, or none of its sizes can be inferred.
        views: the sizes that the views named so far, in each module, also by modules inside it.
    """

    def __init__(self) -> None:
        self.view: NamedView | None = None
        self.views: dict[str, list[list[Any]]] = {}
        self._running: list[str] = []
        # Views that were called so far in each of them.
        self._views: list[int] = []

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths at this moment; the network's own is ""."""
        return tuple(self._running)

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
        self._views.clear()

    @contextmanager
    def viewing(self, sizes: list[Any]) -> Iterator[None]:
        """Number a view that names some sizes, while it runs."""
        if self._running and is_inferable(sizes):
            self.view = NamedView(self._running[-1], self._views[-1])
        self._views = [count + 1 for count in self._views]
        for path in self._running:
            self.views.setdefault(path, []).append(sizes)
        yield
        self.view = None

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        def enter(*_: Any) -> None:
            self._running.append(path)
            self._views.append(0)

        def leave(*_: Any) -> None:
            self._running.pop()
            self._views.pop()

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave, always_call=True)


class _NumberingMode(ViewMode):
    """Tells a stack of modules which view is running."""

    def __init__(self, modules: ModuleStack) -> None:
        super().__init__()
        self._modules = modules

    def view(self, call: Call, sizes: list[Any]) -> Any:
        """Run a view as it is."""
        with self._modules.viewing(sizes):
            return call(sizes)
