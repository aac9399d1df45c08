from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.training.initialization import reinitialize


def test_every_module_begins_again_and_the_given_network_stays() -> None:
    given = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    nn.init.constant_(given[0].weight, 7.0)
    nn.init.constant_(given[1].weight, 7.0)
    given[1].running_mean.fill_(7.0)
    fresh = reinitialize(given)
    assert not (fresh[0].weight == 7).any() and fresh[0].weight.abs().max() < 1
    assert (fresh[1].weight == 1).all() and (fresh[1].running_mean == 0).all()
    assert (given[0].weight == 7).all() and (given[1].running_mean == 7).all()


def test_what_has_no_rule_is_named() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(ModelError, match=r"not known for layer\.own"):
        reinitialize(nn.ModuleDict({"layer": nn.ModuleDict({"own": Scale()})}))
