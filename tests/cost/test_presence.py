"""Costs of networks without some of their branches: those of the network that is really left."""

from __future__ import annotations

import pytest
from residuals import IMAGES, basic
from torch import nn

from autoprune.core.policy import Widths
from autoprune.cost import cost_models
from autoprune.cost.latency.memory_traffic import MemoryTraffic
from autoprune.structure.depth import with_branches
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.structure.verify import analyze


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return basic()


@pytest.fixture(scope="module")
def structure(model: nn.Module) -> Structure:
    return with_branches(model, IMAGES, analyze(model, IMAGES))


def gone(structure: Structure, *places: int) -> Widths:
    groups = {structure.index[structure.branches[place].group] for place in places}
    return tuple(
        0 if place in groups else size - 1 for place, size in enumerate(structure.dense_widths)
    )


@pytest.mark.parametrize("places", [(), (0,), (1,), (0, 1), (0, 1, 2)])
def test_they_are_those_of_the_network_that_is_left(
    places: tuple[int, ...], model: nn.Module, structure: Structure
) -> None:
    widths = gone(structure, *places)
    small = apply_policy(model, structure.policy([range(width) for width in widths]))
    left = trace(small, IMAGES)
    costs = cost_models(structure, adds_bias=False)
    wanted = cost_models(left, adds_bias=False)
    for name in ("flops", "params", "memory"):
        assert costs[name].total(widths) == wanted[name].total(left.dense_widths)
        assert sum(costs[name].by_layer(widths).values()) == costs[name].total(widths)


def test_what_is_gone_moves_no_memory(model: nn.Module, structure: Structure) -> None:
    widths = gone(structure, 0, 1)
    small = apply_policy(model, structure.policy([range(width) for width in widths]))
    left = trace(small, IMAGES)
    layers, other = MemoryTraffic(structure, 1).at(widths)
    own, rest = MemoryTraffic(left, 1).at(left.dense_widths)
    assert layers.sum() + other == pytest.approx(own.sum() + rest)
    assert other == pytest.approx(rest)
