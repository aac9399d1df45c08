from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost import cost_models
from autoprune.cost.counts import MacsCost, ParamsCost, gains_bias
from autoprune.structure.groups import Structure
from autoprune.structure.tracing.trace import trace


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Two groups: 8 channels of "0", and 6 of "3" that a linear layer reads at 3 x 3 pixels."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(54, 10),
    )
    return trace(model.eval(), torch.randn(1, 3, 6, 6))


@pytest.mark.parametrize(("a", "b"), [(8, 6), (5, 6), (8, 1), (3, 2)])
def test_hand_counted(structure: Structure, a: int, b: int) -> None:
    macs, params = MacsCost(structure), ParamsCost(structure, adds_bias=False)
    by_layer = {"0": 36 * 3 * a * 9, "3": 9 * a * b * 4, "5": 9 * b * 10}
    assert macs.by_layer((a, b)) == by_layer
    assert macs.total((a, b)) == sum(by_layer.values())
    by_layer = {"0": 3 * a * 9, "1": 2 * a, "3": a * b * 4, "5": 9 * b * 10 + 10}
    assert params.by_layer((a, b)) == by_layer
    assert params.total((a, b)) == sum(by_layer.values())


def test_bias_that_reconstruction_adds_is_counted_once_inputs_shrink(structure: Structure) -> None:
    """Layer 3 has neither bias nor BN; layer 0 reads the image, layer 5 has a bias."""
    plain, with_bias = ParamsCost(structure, adds_bias=False), ParamsCost(structure)
    assert [gains_bias(structure, w) for w in ("0.weight", "3.weight", "5.weight")] == [
        False,
        True,
        False,
    ]
    for widths, added in {(8, 6): 0, (8, 3): 0, (7, 6): 6, (7, 3): 3}.items():
        assert with_bias.total(widths) - plain.total(widths) == added
    assert with_bias.by_layer((7, 3))["3"] == plain.by_layer((7, 3))["3"] + 3


def test_activation_products_are_fixed_costs(net: Any) -> None:
    model = net(
        lambda m, x: m.b(m.a(x)) + (x @ x.transpose(1, 2)).sum(),
        a=nn.Linear(4, 6),
        b=nn.Linear(6, 2),
    )
    cost = MacsCost(trace(model, torch.randn(1, 5, 4)))
    assert cost.by_layer((3,)) == {"a": 60, "b": 30, "bmm (fixed)": 100}
    assert cost.total((3,)) == 190


def test_units_of_grouped_convolutions_take_inputs_and_outputs_along() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(12, 2, 1))
    cost = MacsCost(trace(model, torch.randn(1, 3, 1, 1)))
    assert cost.by_layer((4,)) == {"0": 24, "1": 24, "2": 24}
    assert cost.by_layer((1,)) == {"0": 6, "1": 6, "2": 6}


def test_a_network_without_groups_has_its_dense_cost() -> None:
    costs = cost_models(trace(nn.Linear(4, 3), torch.randn(1, 4)))
    assert costs["flops"].total(()) == 12
    assert costs["params"].total(()) == 15


@pytest.mark.parametrize("name", ["flops", "params"])
def test_the_model_says_its_name_and_unit(structure: Structure, name: str) -> None:
    cost = cost_models(structure)[name]
    assert cost.name == name
    assert cost.unit in ("MACs", "parameters")
