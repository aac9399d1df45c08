"""Which layers end in a clamp that alone reads what they give."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.tracing.trace import trace

RELU = (0.0, math.inf)


def parts() -> dict[str, nn.Module]:
    convs: dict[str, nn.Module] = {name: nn.Conv2d(3, 3, 1, bias=False) for name in "abc"}
    return {**convs, "bn": nn.BatchNorm2d(3)}


def shared_bn(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    return torch.relu(m.bn(h)) + h


def kept_sum(m: Any, x: Tensor) -> Tensor:
    total = m.a(x) + x
    return F.relu(total) * total


def kept_branch(m: Any, x: Tensor) -> Tensor:
    branch = m.a(x)
    return F.relu(branch + x) * branch


def returned(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h = m.a(x)
    return F.relu(h), h


def sum_block(m: Any, x: Tensor) -> Tensor:
    before = m.b(x)
    return F.relu(m.bn(m.a(before)) + before)


def in_place_block(m: Any, x: Tensor) -> Tensor:
    before = m.b(x)
    h = m.bn(m.a(before))
    h += before
    return m.c(F.relu_(h)) + h  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("forward", "clamp"),
    [
        (lambda m, x: F.relu(m.a(x)), RELU),
        (lambda m, x: F.relu(m.a(x), inplace=True), RELU),
        (lambda m, x: F.relu(m.bn(m.a(x))), RELU),
        (lambda m, x: F.relu6(m.bn(m.a(x))), (0.0, 6.0)),
        (lambda m, x: F.hardtanh(m.a(x)), (-1.0, 1.0)),
        (lambda m, x: F.relu(m.bn(m.a(x)) + m.c(m.b(x))), None),  # c runs after a
        (sum_block, RELU),
        (in_place_block, RELU),
        (lambda m, x: F.leaky_relu(m.a(x)), None),
        (lambda m, x: m.a(x), None),
        (lambda m, x: F.relu(F.avg_pool2d(m.a(x), 2)), None),
        (lambda m, x: F.relu(m.a(m.a(x))), None),
        (shared_bn, None),
        (kept_sum, None),
        (kept_branch, None),
        (returned, None),
    ],
)
def test_clamp_of_the_first_layer(
    net: Any, forward: Callable[[Any, Tensor], Any], clamp: tuple[float, float] | None
) -> None:
    model = net(forward, **parts()).eval()
    found = trace(model, torch.randn(2, 3, 4, 4)).layer_of_weight["a.weight"]
    assert found.clamp == clamp
