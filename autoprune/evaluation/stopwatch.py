"""Measured latency of two networks side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WARM_UP = 3


def paired_latency_ms(
    models: Sequence[nn.Module], inputs: Tensor, repeats: int = 30
) -> list[float]:
    """Return each model's median latency, ms per batch; repeats alternate between the models."""
    times: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for repeat in range(WARM_UP + repeats):
            for model, own in zip(models, times, strict=True):
                _synchronize(inputs.device)
                start = time.perf_counter()
                model(inputs)
                _synchronize(inputs.device)
                if repeat >= WARM_UP:
                    own.append(1000 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
