"""The demo network: a convolutional classifier of 8x8 digits, larger than the task needs."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits_cnn.safetensors")


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation and ReLU; stride 1 keeps height and width."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class ResidualBlock(nn.Module):
    """A residual block: x plus two 3x3 convolution blocks applied to x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels)
        self.conv2 = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to the same shape."""
        inner: Tensor = self.conv2(self.conv1(x))
        return x + inner


class DigitsCNN(nn.Module):
    """Seven convolutions, among them a residual block and a depthwise one, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 32)
        self.widen = ConvBlock(32, 64)
        self.residual = ResidualBlock(64)
        self.depthwise = ConvBlock(64, 64, stride=2, groups=64)
        self.pointwise = ConvBlock(64, 96, kernel=1)
        self.deepen = ConvBlock(96, 96)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, 1, 8, 8) in [0, 1] to logits (n, 10)."""
        x = self.residual(self.widen(self.stem(x)))
        x = self.deepen(self.pointwise(self.depthwise(x)))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def digits_cnn() -> DigitsCNN:
    """Return the demo network with fresh random weights."""
    return DigitsCNN()


def load_demo() -> nn.Module:
    """Return the demo network with its shipped weights, in eval mode."""
    model = digits_cnn()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
