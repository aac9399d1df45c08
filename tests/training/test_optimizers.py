from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.training.choices import OPTIMIZERS
from autoprune.training.optimizers import make_optimizer, set_rate


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vectors_do_not_decay_and_frozen_parameters_stay(name: str) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    network[2].weight.requires_grad_(False)
    optimizer = make_optimizer(network, name, decay=0.1)
    decayed, others = optimizer.param_groups
    assert [one is network[0].weight for one in decayed["params"]] == [True]
    assert len(others["params"]) == 4  # two biases, scale and shift
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_decay_and_rate_change_a_weight_as_computed_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    optimizer = make_optimizer(network, "sgd", decay=0.5)
    set_rate(optimizer, 0.1)
    network.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    # The gradient is 0.5 * 2; Nesterov's first step moves by (1 + momentum) times it.
    assert network.weight.item() == pytest.approx(2 - 0.1 * 1.9 * 1.0)
