from __future__ import annotations

import pytest
import torch

from autoprune.data import Normalization, parse_normalization
from autoprune.errors import UsageError


def test_maps_mean_to_zero_and_one_deviation_above_to_one() -> None:
    normalization = Normalization((0.25, 0.5), (0.5, 0.25))
    images = torch.tensor([0.25, 0.75])[None, :, None, None]
    assert normalization(images).flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("spec", "channels", "mean"),
    [
        (None, 3, (0.485, 0.456, 0.406)),
        ("imagenet", 3, (0.485, 0.456, 0.406)),
        ("cifar10", 3, (0.4914, 0.4822, 0.4465)),
        (None, 1, (0.0,)),
        ("none", 4, (0.0, 0.0, 0.0, 0.0)),
        ("0.1,0.2/1,2", 2, (0.1, 0.2)),
    ],
)
def test_spec(spec: str | None, channels: int, mean: tuple[float, ...]) -> None:
    assert parse_normalization(spec, channels).mean == mean


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ("imagnet", 3, "unknown normalization 'imagnet': did you mean 'imagenet'"),
        ("a,b,c/1,1,1", 3, "'a,b,c/1,1,1' is not means/standard deviations: write for example"),
        ("1/2/3", 1, "'1/2/3' is not means/standard deviations"),
        ("0.5,0.5/1", 2, "has 2 means but 1 standard deviations"),
        ("0.5,0.5/1,1", 3, "is for 2 channels, but the images have 3"),
        ("imagenet", 1, "'imagenet' is for 3 channels, but the images have 1"),
        ("0.5/0", 1, "greater than 0"),
        ("0.5/-1", 1, "greater than 0"),
        ("nan/1", 1, "must be finite"),
    ],
)
def test_error(spec: str, channels: int, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_normalization(spec, channels)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
