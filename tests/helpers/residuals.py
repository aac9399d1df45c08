"""Small networks with residual branches, for tests of what can go."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))

Forward = Callable[["Block", Tensor], Tensor]


class Block(nn.Module):
    """Two convolutions, a projection, and a forward pass that uses some of them."""

    def __init__(
        self, forward: Forward, inputs: int = 6, outputs: int = 6, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, 7, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(7)
        self.conv2 = nn.Conv2d(7, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        if (inputs, stride) != (outputs, 1):
            self.project = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.blocks = forward

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self, x)


def after(m: Block, x: Tensor) -> Tensor:
    """Add, then clamp, as ResNets do."""
    return F.relu(m.branch(x) + x)


def in_place(m: Block, x: Tensor) -> Tensor:
    """Add into the branch, and clamp with the module that runs inside the branch, too."""
    out = m.branch(x)
    out += m.project(x)
    clamped: Tensor = m.relu(out)
    return clamped


def before(m: Block, x: Tensor) -> Tensor:
    """Add and leave the sum as it is, as networks with pre-activation do."""
    return x + m.branch(x)


def scaled(m: Block, x: Tensor) -> Tensor:
    """Do more with the shortcut than run modules."""
    return 0.5 * x + m.branch(x)


def read_twice(m: Block, x: Tensor) -> Tensor:
    """Read the branch a second time, behind the sum."""
    inner = m.branch(x)
    return (x + inner) * inner.mean()


class Net(nn.Module):
    """A stem, blocks and a linear head."""

    def __init__(self, *blocks: nn.Module, outputs: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(outputs, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return out


def trained(model: nn.Module) -> nn.Module:
    """Return a network whose BNs have seen images and do not rescale all channels alike."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        model.train()(IMAGES)
    return model.eval()


def basic() -> nn.Module:
    """Return a network with three kinds of blocks that can go."""
    torch.manual_seed(0)
    blocks = Block(after), Block(in_place, 6, 9, 2), Block(before, 9, 9)
    return trained(Net(*blocks, outputs=9))


def linear() -> nn.Module:
    """Return a network whose sums nothing clamps."""
    torch.manual_seed(0)
    return trained(Net(Block(before), Block(before)))
