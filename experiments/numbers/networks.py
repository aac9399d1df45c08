"""Small networks of the kinds whose forward passes use numbers of their modules.

Each function returns a network with random weights in evaluation mode, and example inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

Network: TypeAlias = tuple[nn.Module, Any]


def conv(inputs: int, outputs: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution with BN and SiLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width, 3), conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Add the bottleneck to its input."""
        out: Tensor = x + self.second(self.first(x))
        return out


class C2f(nn.Module):
    """Cross-stage block: one half goes through bottlenecks, and all that is made is joined."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, chunks: bool = False) -> None:
        super().__init__()
        self.c, self.chunks = outputs // 2, chunks
        self.enter = conv(inputs, 2 * self.c)
        self.leave = conv((2 + depth) * self.c, outputs)
        self.blocks = nn.ModuleList(Bottleneck(self.c) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Split by a stored width or by `chunk`, and join."""
        x = self.enter(x)
        parts = list(x.chunk(2, 1) if self.chunks else x.split((self.c, self.c), 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        out: Tensor = self.leave(torch.cat(parts, 1))
        return out


class Pooling(nn.Module):
    """Spatial pyramid pooling, one pooling after another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(width, width // 2), conv(width * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Join three poolings."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        out: Tensor = self.leave(torch.cat(parts, 1))
        return out


class Detector(nn.Module):
    """A YOLO-like network: C2f blocks, pyramid pooling, one upward path and a decoupled head."""

    def __init__(self, chunks: bool = False, classes: int = 10, bins: int = 16) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), C2f(32, 32, 1, chunks))
        self.middle = nn.Sequential(conv(32, 64, 3, 2), C2f(64, 64, 2, chunks))
        self.deep = nn.Sequential(conv(64, 128, 3, 2), C2f(128, 128, 1, chunks), Pooling(128))
        self.up = C2f(192, 64, 1, chunks)
        self.boxes, self.scores = (
            nn.ModuleList(
                nn.Sequential(conv(width, 32, 3), nn.Conv2d(32, outputs, 1)) for width in (64, 128)
            )
            for outputs in (4 * bins, classes)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return distances of box edges and class scores at all places."""
        middle = self.middle(self.stem(x))
        deep = self.deep(middle)
        maps = (self.up(torch.cat((F.interpolate(deep, scale_factor=2.0), middle), 1)), deep)
        outputs = self.classes + 4 * self.bins
        found = [
            torch.cat((box(one), score(one)), 1).view(x.shape[0], outputs, -1)
            for box, score, one in zip(self.boxes, self.scores, maps, strict=True)
        ]
        return torch.cat(found, 2).split((4 * self.bins, self.classes), 1)


class TimedBlock(nn.Module):
    """A residual block of a diffusion network: group normalisation and a time embedding."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(64, outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Add the block to its input."""
        h = self.first(F.silu(self.first_norm(x))) + self.time(F.silu(time))[:, :, None, None]
        out: Tensor = self.skip(x) + self.second(F.silu(self.second_norm(h)))
        return out


class Diffusion(nn.Module):
    """A small U-Net that takes noisy images and times."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter, self.down = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, 2, 1)
        self.high, self.low, self.middle = (
            TimedBlock(32, 32),
            TimedBlock(64, 64),
            TimedBlock(64, 64),
        )
        self.low_up, self.high_up = TimedBlock(128, 64), TimedBlock(64, 32)
        self.up, self.leave = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
        self.norm = nn.GroupNorm(8, 32)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the noise."""
        time = self.time(time)
        high = self.high(self.enter(x), time)
        low = self.low(self.down(high), time)
        h = self.low_up(torch.cat((self.middle(low, time), low), 1), time)
        h = self.up(F.interpolate(h, scale_factor=2.0))
        out: Tensor = self.leave(F.silu(self.norm(self.high_up(torch.cat((h, high), 1), time))))
        return out


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def super_resolution() -> nn.Module:
    """Return an ESPCN-like network with two pixel shuffles."""
    layers = (nn.Conv2d(3, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh())
    first = (nn.Conv2d(32, 64, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
    second = (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1))
    return nn.Sequential(*layers, *first, *second, nn.PixelShuffle(2))


def autoencoder() -> nn.Module:
    """Return an autoencoder with `Flatten` and `Unflatten`."""
    encoder = (nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
    middle = (nn.Flatten(), nn.Linear(2048, 20), nn.Linear(20, 2048), nn.ReLU())
    decoder = (nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1))
    return nn.Sequential(*encoder, *middle, nn.Unflatten(1, (32, 8, 8)), *decoder)


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "shufflenet_v2_x1_0": lambda: (torchvision.models.shufflenet_v2_x1_0(), images(64)),
    "detector, split by a number": lambda: (Detector(), images(64)),
    "detector, split by chunk": lambda: (Detector(chunks=True), images(64)),
    "resnet50_gn": lambda: (timm.create_model("resnet50_gn"), images(64)),
    "diffusion U-Net": lambda: (Diffusion(), (images(32), torch.rand(2, 1))),
    "super-resolution": lambda: (super_resolution(), images(32)),
    "autoencoder": lambda: (autoencoder(), images(32)),
    "mobilenet_v3_small": lambda: (torchvision.models.mobilenet_v3_small(), images(64)),
    "efficientnet_b0": lambda: (torchvision.models.efficientnet_b0(), images(64)),
    "vit_b_16, 224x224": lambda: (torchvision.models.vit_b_16(), images(224)),
    "swin_t, 224x224": lambda: (torchvision.models.swin_t(), images(224)),
    "deit_tiny, 224x224": lambda: (timm.create_model("deit_tiny_patch16_224"), images(224)),
    "convnext_tiny, 224x224": lambda: (torchvision.models.convnext_tiny(), images(224)),
    "shufflenet_v2_x1_0, 224x224": lambda: (torchvision.models.shufflenet_v2_x1_0(), images(224)),
    "detector, 320x320": lambda: (Detector(), images(320)),
}


def build(names: Sequence[str]) -> dict[str, Callable[[], Network]]:
    """Return the named networks, all if none is named."""
    return {name: NETWORKS[name] for name in names or NETWORKS}
