"""Measured latency of networks side by side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from autoprune.cost.latency.stopwatch import measure
from autoprune.cost.latency.torch_backend import runner
from autoprune.data.inputs import Inputs


def paired_latency_ms(models: Sequence[nn.Module], inputs: Inputs) -> list[float]:
    """Return each model's median latency, ms per batch; repeats alternate between the models."""
    return [timing.ms for timing in measure([runner(model, inputs) for model in models])]
