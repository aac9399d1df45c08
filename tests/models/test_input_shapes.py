"""Shapes of one input: parsed, or the default of a network."""

from __future__ import annotations

import pytest
from torch import nn

from autoprune.errors import UsageError
from autoprune.models.input_shapes import default_input_shape, parse_shape
from autoprune.models.loading import load_model


def test_shapes() -> None:
    assert parse_shape("3x224X224") == (3, 224, 224)
    for text in ("", "3,4", "3x", "0x1", "-1x2"):
        with pytest.raises(UsageError, match="3x224x224"):
            parse_shape(text)


def test_timm() -> None:
    pytest.importorskip("timm")
    model = load_model("timm:test_resnet.r160_in1k")
    assert default_input_shape("timm:test_resnet", model) == (3, 160, 160)


def test_demo_and_defaults() -> None:
    assert default_input_shape("demo", load_model("demo")) == (1, 8, 8)
    assert default_input_shape("net.py:f", nn.Identity()) == (3, 224, 224)
