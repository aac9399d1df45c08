"""A small network of every kind of layer that latency tables know."""

from __future__ import annotations

import torch
from torch import nn

IMAGE = torch.randn(1, 3, 8, 8)


def layers() -> nn.Sequential:
    """A convolution, a depthwise one, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 64, 10),
    )
