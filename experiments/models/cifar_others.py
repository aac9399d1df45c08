"""CIFAR networks of other kinds than residual ones: plain, and of depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    """Return a convolution, its BN and a ReLU."""
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class CifarNet(nn.Module):
    """Convolutions one behind the other, global pooling, a linear layer."""

    def __init__(self, features: Sequence[nn.Module], channels: int, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes)."""
        logits: Tensor = self.linear(self.features(x).mean(dim=(2, 3)))
        return logits


def plain9() -> CifarNet:
    """Eight 3x3 convolutions of 24 to 96 channels, 22 M multiply-accumulates."""
    features: list[nn.Module] = []
    inputs = 3
    for outputs, stride in (
        (24, 1), (24, 1), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1),
    ):  # fmt: skip
        features += _convolution(inputs, outputs, stride=stride)
        inputs = outputs
    return CifarNet(features, inputs)


def depthwise8() -> CifarNet:
    """Depthwise-separable blocks as in MobileNetV1, of 24 to 160 channels."""
    features: list[nn.Module] = [*_convolution(3, 24)]
    inputs = 24
    for outputs, stride in (
        (40, 1), (80, 2), (80, 1), (80, 1), (160, 2), (160, 1), (160, 1),
    ):  # fmt: skip
        features += _convolution(inputs, inputs, stride=stride, groups=inputs)
        features += _convolution(inputs, outputs, kernel=1)
        inputs = outputs
    return CifarNet(features, inputs)
