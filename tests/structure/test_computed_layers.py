"""Layers that compute their weight in their own forward pass become plain ones if that is all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.structure.computed_layers import SameConv2d, plain_layer
from autoprune.structure.plain_weights import notes_on_weights, with_plain_weights
from autoprune.structure.verify import analyze

IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Standardised(nn.Conv2d):
    """As in timm: weights of every filter have mean zero and variance one, and a gain."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def weights(self) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self.gain * centred / self.weight.std((1, 2, 3), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weights(), self.bias, self.stride, self.padding)


class Padded(Standardised):
    """Pads by an amount that depends on the size of the image, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        needed = max((-(-x.shape[-1] // 2) - 1) * 2 + 3 - x.shape[-1], 0)
        return super().forward(F.pad(x, [needed // 2, needed - needed // 2] * 2))


class Shifted(Standardised):
    """Pads by one pixel on one side, whatever the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, [0, 1, 0, 1]))


class Modulated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class LowRank(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Linear(sizes[0], 2), nn.Linear(2, sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up.weight @ self.down.weight, self.bias)


class Same(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_a_standardised_convolution_is_a_plain_one() -> None:
    layer = Standardised(3, 6, 3, stride=2, padding=1)
    layer.bias.requires_grad_(False)
    plain = plain_layer(layer)
    assert type(plain) is nn.Conv2d and dict(plain.named_parameters()).keys() == {"weight", "bias"}
    assert torch.equal(plain.weight, layer.weights()) and plain.stride == (2, 2)
    assert plain.weight.requires_grad and not plain.bias.requires_grad
    torch.testing.assert_close(plain(IMAGES), layer(IMAGES))


@pytest.mark.parametrize("size", [8, 9, 11])
def test_padding_by_the_size_of_the_image_is_kept(size: int) -> None:
    layer = Padded(3, 6, 3, stride=2)
    plain = plain_layer(layer)
    assert isinstance(plain, SameConv2d)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(plain(images), layer(images))


def test_an_adapter_inside_a_layer_is_merged() -> None:
    layer = LowRank(5, 4)
    plain = plain_layer(layer)
    assert type(plain) is nn.Linear and not list(plain.children())
    rows = torch.randn(7, 5)
    torch.testing.assert_close(plain(rows), layer(rows))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, 3),
        Same(3, 6, 3),
        Shifted(3, 6, 3, stride=2),
        Modulated(3, 6, 3),
        nn.ReLU(),
    ],
)
def test_others_stay_as_they_are(layer: nn.Module) -> None:
    assert plain_layer(layer) is None


def test_a_network_of_such_layers_can_be_cut() -> None:
    model = nn.Sequential(
        Standardised(3, 6, 3), nn.ReLU(), Standardised(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()
    assert not analyze(model, IMAGES).groups
    plain = with_plain_weights(model)
    assert [group.name for group in analyze(plain, IMAGES).groups] == ["0", "2"]
    assert torch.allclose(plain(IMAGES), model(IMAGES), atol=1e-5)
    assert type(model[0]) is Standardised and type(plain[0]) is nn.Conv2d
    (note,) = notes_on_weights(model)
    assert note == (
        "what Standardised computes is made permanent in the pruned network: 0.weight, 2.weight"
    )


class Clipping(Standardised):
    """Does to large inputs what its class does not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(-6, 6))


class Scaled(nn.Linear):
    """May be told more than its input."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return F.linear(x, self.weight * (1 + scale), self.bias)


@pytest.mark.parametrize("layer", [Clipping(3, 4, 3), Scaled(3, 4)])
def test_a_layer_that_does_more_stays(layer: nn.Module) -> None:
    assert plain_layer(layer) is None
