"""Which modules run: the one whose forward pass calls an operator, and those around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import nn


class ModuleStack:
    """Paths of the modules that are running, outermost first, while `watching` is entered."""

    def __init__(self) -> None:
        self._running: list[str] = []

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
            yield
        self._running.clear()

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        def enter(*_: Any) -> None:
            self._running.append(path)

        def leave(*_: Any) -> None:
            self._running.pop()

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave, always_call=True)
