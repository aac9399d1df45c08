from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.structure.tracing.module_stack import ModuleStack


class Noting(nn.Module):
    """Notes which modules run."""

    def __init__(self, stack: ModuleStack, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.stack, self.seen = inner, stack, [()]

    def forward(self, x: Tensor) -> Tensor:
        if self.inner is not None:
            x = self.inner(x)
        self.seen.append(self.stack.paths)
        if x.numel() == 0:
            raise ValueError("empty")
        return x


def test_the_running_modules_are_known_outermost_first() -> None:
    stack = ModuleStack()
    inner = Noting(stack)
    model: Any = Noting(stack, nn.Sequential(nn.ReLU(), inner))
    with stack.watching(model):
        model(torch.ones(1))
    assert inner.seen[1:] == [("", "inner", "inner.1")]
    assert model.seen[1:] == [("",)]
    model(torch.ones(1))
    assert inner.seen[2:] == [()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_failure_leaves_no_hooks() -> None:
    stack = ModuleStack()
    model: Any = Noting(stack)
    with pytest.raises(ValueError, match="empty"), stack.watching(model):
        model(torch.ones(0))
    assert stack.paths == () and not model._forward_hooks
