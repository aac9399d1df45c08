"""Measured latency of networks side by side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autoprune.cost.latency.stopwatch import measure
from autoprune.cost.latency.torch_backend import runner


def paired_latency_ms(models: Sequence[nn.Module], inputs: Tensor) -> list[float]:
    """Return each model's median latency, ms per batch; repeats alternate between the models."""
    return [timing.ms for timing in measure([runner(model, inputs) for model in models])]
