"""Attention in windows that can be cut gives what torchvision's gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from autoprune.structure.attention import is_sizable, read_own_sizes
from autoprune.structure.window_attention import SIZED

# By name: height and width of the image.
SIZES = {"whole windows": (8, 8), "padded": (6, 9), "one window": (4, 3), "one window high": (4, 9)}


def attention(kind: type[nn.Module], shift: int = 2, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    is_video = kind is ShiftedWindowAttention3d
    window, by = ([2] * is_video + [4, 4]), ([shift // 2] * is_video + [shift, shift])
    made = kind(12, window, by, 3, **options).eval()  # type: ignore[call-arg]
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def data(kind: type[nn.Module], size: tuple[int, int], frames: int = 3) -> Tensor:
    """Return two images, or two videos."""
    lengths = (frames, *size) if kind is ShiftedWindowAttention3d else size
    return torch.randn(2, *lengths, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("kind", SIZED)
def test_it_is_torchvisions(kind: type[nn.Module], shift: int, size: str) -> None:
    theirs = attention(kind, shift)
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    assert type(ours) is SIZED[kind]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = data(kind, SIZES[size])
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("kind", SIZED)
def test_biases_may_be_missing(kind: type[nn.Module]) -> None:
    theirs = attention(kind, qkv_bias=False, proj_bias=False)
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    x = data(kind, (8, 8))
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_video_may_have_any_length(frames: int) -> None:
    theirs = attention(ShiftedWindowAttention3d)
    ours = copy.deepcopy(theirs)
    read_own_sizes(ours)
    x = data(ShiftedWindowAttention3d, (8, 3), frames)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_classes_with_a_forward_pass_of_their_own_are_left_alone() -> None:
    class Other(ShiftedWindowAttention):  # type: ignore[misc]
        pass

    assert not is_sizable(attention(Other))
    assert is_sizable(attention(ShiftedWindowAttentionV2))
