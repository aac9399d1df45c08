"""What tests of whole searches share: a network, data and options that take a moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune.core.progress import Progress
from autoprune.data import Splits

FEW: dict[str, Any] = {
    "calibration_samples": 64,
    "search_samples": 64,
    "selection_samples": 64,
    "budget": "flops=0.5",
    "trials": 3,
    "recover": "off",
    "report": False,
}
TINY: dict[str, Any] = {
    "budget": "flops=0.5",
    "trials": 1,
    "strategy": "uniform",
    "recover": "off",
    "report": False,
}


def dataset(rows: int = 60, classes: int = 4, shape: Sequence[int] = (3, 8, 8)) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, *shape, generator=generator)
    return TensorDataset(images, torch.arange(rows) % classes)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def inputs_of(digits: Splits, count: int = 50) -> Tensor:
    assert digits.test is not None
    return digits.test.take(range(count)).inputs


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(inputs)
    return result


class Notes(Progress):
    """What was said once."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
