"""Small networks with every kind of channel group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """A network written as one expression over named modules and parameters."""

    def __init__(self, expression: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.expression = expression
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the expression."""
        return self.expression(self, *args, **kwargs)


def block(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    """Return a convolution with BN and ReLU that keeps the resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def head(channels: int) -> nn.Sequential:
    """Return global pooling and a linear layer with four classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))


def plain() -> nn.Module:
    """Return a chain of layers."""
    return nn.Sequential(block(3, 8), block(8, 7), head(7))


def without_batchnorm() -> nn.Module:
    """Return a chain of layers without BN."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 3), head(7))


def residual() -> nn.Module:
    """Return two residual blocks on one stream."""
    return Net(
        lambda m, x: m.head((lambda h: F.relu(h + m.d(m.c(h))))((lambda h: h + m.b(h))(m.a(x)))),
        a=block(3, 8),
        b=block(8, 8),
        c=block(8, 6),
        d=nn.Conv2d(6, 8, 1),
        head=head(8),
    )


def depthwise() -> nn.Module:
    """Return a network with a depthwise convolution."""
    return nn.Sequential(block(3, 8), block(8, 8, groups=8), block(8, 6, 1), head(6))


def grouped() -> nn.Module:
    """Return a network with a grouped convolution."""
    return nn.Sequential(block(3, 12, 1), block(12, 12, groups=4), head(12))


def summed_groups() -> nn.Module:
    """Return a grouped convolution whose groups are summed up: none can go by itself."""
    return Net(
        lambda m, x: m.head(m.b(m.a(x)).unflatten(1, (2, -1)).sum(1)),
        a=block(3, 8),
        b=block(8, 12, groups=2),
        head=head(6),
    )


def concatenated() -> nn.Module:
    """Return two branches that are concatenated."""
    return Net(
        lambda m, x: m.head(m.c(torch.cat([m.a(x), m.b(x)], 1))),
        a=block(3, 6),
        b=block(3, 7),
        c=block(13, 6),
        head=head(6),
    )


def flattened() -> nn.Module:
    """Return a linear layer that reads the flattened pixels of a convolution, for 6 x 6 images."""
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))


def transposed() -> nn.Module:
    """Return a network with a transposed convolution."""
    return nn.Sequential(block(3, 6), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), head(5))


def functional() -> nn.Module:
    """Return a layer whose weight is used without calling its module."""
    return Net(
        lambda m, x: m.head(F.relu(F.conv2d(m.a(x), m.b.weight))),
        a=block(3, 6),
        b=nn.Conv2d(6, 5, 3),
        head=head(5),
    )


def product() -> nn.Module:
    """Return a layer that is no module: a product with parameters of the network itself."""
    matrix = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    return Net(
        lambda m, x: m.head(F.relu(F.linear(m.a(x).mean((2, 3)), m.matrix, m.shift))),
        a=block(3, 8),
        matrix=nn.Parameter(matrix),
        shift=nn.Parameter(torch.zeros(7)),
        head=nn.Linear(7, 4),
    )


def normalized() -> nn.Module:
    """Return a stream of tokens that LayerNorm normalises."""
    return Net(
        lambda m, x: m.head(
            m.last((lambda h: h + m.mlp(m.first(h)))(m.patches(x).flatten(2).mT)).mean(1)
        ),
        patches=nn.Conv2d(3, 8, 3, stride=3),
        first=nn.LayerNorm(8),
        mlp=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
        last=nn.LayerNorm(8),
        head=nn.Linear(8, 4),
    )


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    make.__name__: make
    for make in (
        *(plain, without_batchnorm, residual, depthwise, grouped, summed_groups, concatenated),
        *(flattened, transposed, functional),
    )
}
"""One network for every kind of group; they take images of shape (3, 6, 6)."""

IMAGES = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(60) % 4


def randomized(model: nn.Module, images: Tensor = IMAGES, seed: int = 0) -> nn.Module:
    """Return a network with seeded weights, and BN scales and statistics as after training."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.4)
    for _ in range(3):
        model.train()(images)
    return model.eval()
