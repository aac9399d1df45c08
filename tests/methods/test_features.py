"""Features of the network are matched, not those of what a method adds to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.methods.registry import KIND, find_method
from autoprune.structure.surgery import deep_copy
from autoprune.testing.method_contract import BATCH, RECIPE, Setup
from autoprune.testing.small_networks import block, randomized
from autoprune.training.features import FeatureMatching, LastPooling, apart
from autoprune.training.objective import Objective, Teacher
from autoprune.training.trainer import train


def with_hidden_layer() -> nn.Module:
    """Return a chain with two linear layers behind the pooling."""
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 4))
    return nn.Sequential(block(3, 8), block(8, 7), *last)


@pytest.mark.parametrize("name", KIND.built_in)
def test_layers_of_the_method_are_not_seen(name: str) -> None:
    """Through all steps, what the network's own pooling reads is compared with the dense one's."""
    seen = set()

    class Watched(FeatureMatching):
        def error(self, own: Any, dense: Any) -> torch.Tensor:
            seen.add((own.source.shape, dense.source.shape))
            return super().error(own, dense)

    setup = Setup.of(randomized(with_hidden_layer()))
    method = find_method(name, {}).prepared(setup.goal)
    teacher = Teacher(deep_copy(setup.network).eval())
    objective = Objective(4, True, teacher=teacher, features=Watched(0.5))
    done = train(replace(setup.task(method), objective=objective), RECIPE)
    assert done.steps == 12 and done.diverged is None
    assert seen == {(torch.Size([BATCH, 7, 6, 6]),) * 2}


def test_what_runs_apart_is_not_recorded() -> None:
    inputs = torch.rand(2, 3, 4)
    with LastPooling() as recorded:
        inputs.mean(2)
        with apart():
            (inputs + 1).mean(2)
    assert recorded.source is inputs
