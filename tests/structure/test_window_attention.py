"""Attention in windows that can be cut gives what torchvision's gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from autoprune.structure.attention import is_sizable, read_own_sizes
from autoprune.structure.window_attention import SIZED

# By name: height and width of the image.
SIZES = {"whole windows": (8, 8), "padded": (6, 9), "one window": (4, 3), "one window high": (4, 9)}


def attention(kind: type[nn.Module], shift: int = 2, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    made = kind(12, [4, 4], [shift, shift], 3, **options).eval()  # type: ignore[call-arg]
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def image(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, *size, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("kind", SIZED)
def test_it_is_torchvisions(kind: type[nn.Module], shift: int, size: str) -> None:
    theirs = attention(kind, shift)
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    assert type(ours) is SIZED[kind]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = image(SIZES[size])
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("kind", SIZED)
def test_biases_may_be_missing(kind: type[nn.Module]) -> None:
    theirs = attention(kind, qkv_bias=False, proj_bias=False)
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    assert torch.allclose(ours(image((8, 8))), theirs(image((8, 8))), atol=1e-6)


def test_classes_with_a_forward_pass_of_their_own_are_left_alone() -> None:
    class Other(ShiftedWindowAttention):  # type: ignore[misc]
        pass

    assert not is_sizable(attention(Other))
    assert is_sizable(attention(ShiftedWindowAttentionV2))
