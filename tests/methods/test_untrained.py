"""What is cut where nothing, or hardly anything, was learnt."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from autoprune.engine.train import _untrained
from autoprune.methods.registry import KIND, find_method
from autoprune.methods.sfp import SoftFilterPruning
from autoprune.methods.units import ranked
from autoprune.testing.method_contract import Setup, moment
from autoprune.testing.small_networks import plain, randomized

# Clusters do not say which channel is of use.
JUDGING = [name for name in KIND.built_in if name != "c_sgd"]


@pytest.fixture
def setup() -> Setup:
    """A chain whose first channel hardly does anything."""
    network = randomized(plain())
    with torch.no_grad():
        for name in ("0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"):
            network.get_parameter(name)[0] *= 1e-3
        network.get_parameter("1.0.weight")[:, 0] *= 1e-3
    return Setup.of(network)


@pytest.mark.parametrize("name", JUDGING)
def test_a_useless_channel_goes_first(name: str, setup: Setup) -> None:
    """Not the channel whose number is the largest, or the least, of equal ones."""
    method = find_method(name, {}).prepared(setup.goal)
    scores = method.scores(_untrained(setup.task(method)))
    assert int(scores[0].argmin()) == 0
    assert len(scores[0].unique()) == 8


def test_compactors_stand_behind_batchnorm(setup: Setup) -> None:
    """The network begins in training mode, as it does where it is trained."""
    method = find_method("resrep", {}).prepared(setup.goal)
    assert not _untrained(setup.task(method)).training
    assert method.state()["compactors"].keys() == {"0.0", "1.0"}


def test_norms_decide_among_equals_alone(setup: Setup) -> None:
    """Scores that differ keep their order, zeros stay; other groups come last, by norms."""
    learnt = torch.tensor([0.5, 0.5 + 1e-6, 0.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    first, second = ranked({"0.0": learnt}, setup.structure, setup.network)
    assert first.argsort(descending=True)[:3].tolist() == [1, 2, 0]
    assert torch.allclose(first, learnt) and not first[3:].any()
    assert second.min() > first.max() and len(second.unique()) == 7


def test_no_layer_dominates_where_nothing_was_learnt(setup: Setup) -> None:
    """The largest filters of every group have the same score, however small a layer's are."""
    with torch.no_grad():
        setup.network.get_parameter("0.0.weight").mul_(1e-3)
    equal = {group.name: torch.ones(group.size).double() for group in setup.structure.groups}
    first, second = ranked(equal, setup.structure, setup.network)
    assert float(first.max()) == float(second.max()) == 1 + 1e-9


def test_soft_pruning_without_a_pass_is_told(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    method = SoftFilterPruning().prepared(replace(setup.goal, widths=(6, 7)))
    method.start(setup.network)
    with caplog.at_level(logging.WARNING):
        method.scores(setup.network)
    assert "this training made none" in caplog.text
    caplog.clear()
    with torch.no_grad():
        method.after_epoch(setup.network, moment(2))
    method.scores(setup.network)
    assert not caplog.messages
