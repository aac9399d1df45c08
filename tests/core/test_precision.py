from __future__ import annotations

import torch
from torch import nn

from autoprune.core.precision import fresh_casts


def test_casts_under_autocast_follow_the_weights() -> None:
    layer, x = nn.Linear(4, 3, bias=False), torch.ones(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with fresh_casts():
            assert bool(layer(x).any())
            layer.weight.data.zero_()
            assert not bool(layer(x).any())
        assert torch.is_autocast_cache_enabled()
