from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.models.loading import (
    default_input_shape,
    load_model,
    parse_shape,
)
from autoprune.options.kinds import parse_duration, parse_min_keep


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1D", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "0m", "1w", "1h30m", "nan", "inf"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="10m"):
        parse_duration(text)


def test_min_keep() -> None:
    assert parse_min_keep(["0.2", "layer1.*=0.5"]) == {"*": 0.2, "layer1.*": 0.5}
    for text in ("0", "-0.1", "1.01", "nan", "half", "a=b", "a="):
        with pytest.raises(UsageError, match="layer1"):
            parse_min_keep([text])


def test_shapes() -> None:
    assert parse_shape("3x224X224") == (3, 224, 224)
    for text in ("", "3,4", "3x", "0x1", "-1x2"):
        with pytest.raises(UsageError, match="3x224x224"):
            parse_shape(text)


def test_random_weights_are_always_the_same() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = (load_model("torchvision:squeezenet1_1") for _ in range(2))
    assert torch.equal(next(a.parameters()), next(b.parameters()))
    assert torch.equal(torch.get_rng_state(), before) and not a.training


def test_timm() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:test_resnet.r160_in1k")
    assert default_input_shape("timm:test_resnet", model) == (3, 160, 160)


def test_demo_and_defaults() -> None:
    assert default_input_shape("demo", load_model("demo")) == (1, 8, 8)
    assert default_input_shape("net.py:f", nn.Identity()) == (3, 224, 224)
