"""What tests of sequential repair share: small networks of many forms, cut and repaired."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import (
    THOROUGH_EFFORT,
    Effort,
    SequentialRepair,
)
from autoprune.statistics.collect import collect_moments
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import Keep, cut, kept_positions
from autoprune.structure.tracing.trace import trace

IMAGES = torch.randn(200, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def residual(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.bn0(m.stem(x)))
    for i in (1, 2, 3):
        inner = F.relu(getattr(m, f"bn{i}a")(getattr(m, f"conv{i}a")(x)))
        x = F.relu(getattr(m, f"bn{i}b")(getattr(m, f"conv{i}b")(inner)) + x)
    return m.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def residual_parts(width: int = 12) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {
        "stem": nn.Conv2d(3, width, 3, padding=1, bias=False),
        "bn0": nn.BatchNorm2d(width),
        "head": nn.Linear(width, 5),
    }
    for i in (1, 2, 3):
        for half in "ab":
            parts[f"conv{i}{half}"] = nn.Conv2d(width, width, 3, padding=1, bias=False)
            parts[f"bn{i}{half}"] = nn.BatchNorm2d(width)
    return parts


def bare(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(F.relu(m.a(x)).relu()).mean((2, 3)))  # type: ignore[no-any-return]


def perceptron(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m.norm(m.a(x.flatten(1))))
    return m.head(F.relu(m.b(h)))  # type: ignore[no-any-return]


def per_pixel(m: Any, x: Tensor) -> Tensor:
    return m.head(F.relu(m.a(x.flatten(2).transpose(1, 2))).mean(1))  # type: ignore[no-any-return]


def signals(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(F.relu(m.norm(m.a(x.flatten(2))))).mean(2))  # type: ignore[no-any-return]


def strided(m: Any, x: Tensor) -> Tensor:
    return m.head(m.b(F.relu(m.dw(m.a(x)))).flatten(1))  # type: ignore[no-any-return]


def reused(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m.a(x))
    return m.head(F.relu(m.b(F.relu(m.b(h)))).mean((2, 3)))  # type: ignore[no-any-return]


def volumes(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m.norm(m.a(x[:, None])))
    return m.head(F.relu(m.b(h)).mean((2, 3, 4)))  # type: ignore[no-any-return]


def concatenated(m: Any, x: Tensor) -> Tensor:
    first = F.relu6(m.a(x))
    second = F.relu6(m.norm(m.b(first)))
    return m.head(m.c(torch.cat([first, second], 1)).mean((2, 3)))  # type: ignore[no-any-return]


def gated(m: Any, x: Tensor) -> Tensor:
    h = F.relu(m.a(x))
    gate = m.up(F.relu(m.down(h.mean((2, 3), keepdim=True)))).sigmoid()
    return m.head(m.b(h * gate).mean((2, 3)))  # type: ignore[no-any-return]


def attended(m: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    inner = F.gelu(m.a(m.norm(tokens)))
    return m.head((tokens + m.b(inner)).mean(1))  # type: ignore[no-any-return]


def mirrored(m: Any, x: Tensor) -> Tensor:
    return m.head(F.relu(m.b(F.relu(m.a(x)))).mean((2, 3)))  # type: ignore[no-any-return]


NETS: dict[str, Any] = {
    "residual": (residual, residual_parts),
    "no bias, no BN": (bare, lambda: {
        "a": nn.Conv2d(3, 8, 3, bias=False), "b": nn.Conv2d(8, 6, 3, bias=False),
        "head": nn.Linear(6, 4, bias=False)}),
    "linear": (perceptron, lambda: {
        "a": nn.Linear(108, 16), "norm": nn.BatchNorm1d(16), "b": nn.Linear(16, 12),
        "head": nn.Linear(12, 4)}),
    "linear per pixel": (per_pixel, lambda: {"a": nn.Linear(3, 12), "head": nn.Linear(12, 4)}),
    "1d": (signals, lambda: {
        "a": nn.Conv1d(3, 12, 3, padding=1, bias=False), "norm": nn.BatchNorm1d(12),
        "b": nn.Conv1d(12, 8, 5, stride=2), "head": nn.Linear(8, 4)}),
    "depthwise, stride, dilation": (strided, lambda: {
        "a": nn.Conv2d(3, 12, 3, stride=2, padding=1),
        "dw": nn.Conv2d(12, 12, 3, padding=1, groups=12),
        "b": nn.Conv2d(12, 6, 2, dilation=2, padding=(1, 0)), "head": nn.Linear(18, 4)}),
    "3d": (volumes, lambda: {
        "a": nn.Conv3d(1, 8, (2, 3, 3), padding=1, bias=False), "norm": nn.BatchNorm3d(8),
        "b": nn.Conv3d(8, 6, 3, stride=(1, 2, 2)), "head": nn.Linear(6, 4)}),
    "concatenated": (concatenated, lambda: {
        "a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 6, 3, padding=1, bias=False),
        "norm": nn.BatchNorm2d(6), "c": nn.Conv2d(14, 8, 3), "head": nn.Linear(8, 4)}),
    "mirrored borders": (mirrored, lambda: {
        "a": nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        "b": nn.Conv2d(8, 6, 3, stride=2, padding=1, padding_mode="circular"),
        "head": nn.Linear(6, 4)}),
    "a gate": (gated, lambda: {
        "a": nn.Conv2d(3, 8, 3), "down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 8, 1),
        "b": nn.Conv2d(8, 6, 3), "head": nn.Linear(6, 4)}),
    "tokens behind LayerNorm": (attended, lambda: {
        "norm": nn.LayerNorm(3), "a": nn.Linear(3, 12), "b": nn.Linear(12, 3),
        "head": nn.Linear(3, 4)}),
    "a layer used twice": (reused, lambda: {
        "a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 8, 3, padding=1), "head": nn.Linear(8, 4)}),
}  # fmt: skip


def make(net: Any, forward: Any, parts: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = net(forward, **parts())
    for _ in range(20):
        model.train()(IMAGES)
    return model.eval()


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(IMAGES)
    return result


def random_keep(model: nn.Module, structure: Structure, share: float, only: str = "") -> Keep:
    rng = np.random.default_rng(0)
    kept = [
        rng.choice(g.size, max(1, round(g.size * share)), replace=False).tolist()
        if g.name.startswith(only)
        else range(g.size)
        for g in structure.groups
    ]
    return kept_positions(model, structure.policy(kept))


def one_shot(model: nn.Module, structure: Structure, keep: Keep) -> nn.Module:
    moments = collect_moments(model, structure, Samples(IMAGES, None), 0, 10**6)
    return cut(model, keep, Refitter(model, structure, moments).tensors(keep))


def repaired(model: nn.Module, keep: Keep, effort: Effort = THOROUGH_EFFORT) -> nn.Module:
    structure = trace(model, IMAGES)
    small = one_shot(model, structure, keep)
    SequentialRepair(model, structure, Samples(IMAGES, None), 0, effort).repair(small, keep)
    return small
