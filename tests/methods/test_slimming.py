from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.methods.ista import Ista
from autoprune.methods.slimming import Slimming
from autoprune.testing.method_contract import Setup, moment
from autoprune.testing.small_networks import concatenated, plain, randomized, without_batchnorm


def test_one_step_by_hand() -> None:
    """γ.grad += λ sign(γ); a BN that two groups pass is penalised once."""
    network = concatenated()
    network.insert = nn.BatchNorm2d(13)
    network.expression = lambda m, x: m.head(m.c(m.insert(torch.cat([m.a(x), m.b(x)], 1))))
    setup = Setup.of(randomized(network))
    method = Slimming(sparsity=0.25).prepared(setup.goal)
    gamma = network.insert.weight
    with torch.no_grad():
        gamma[:3] = torch.tensor([0.7, -0.2, 0.0])
    for one in network.parameters():
        one.grad = torch.full_like(one, 0.1)
    with torch.no_grad():
        method.after_backward(network, moment())
    assert gamma.grad is not None
    assert torch.allclose(gamma.grad[:3], torch.tensor([0.35, -0.15, 0.1]))
    assert torch.equal(network.a[0].weight.grad, torch.full_like(network.a[0].weight, 0.1))


def test_scores_are_the_mean_scales() -> None:
    setup = Setup.of(randomized(concatenated()))
    method = Slimming().prepared(setup.goal)
    scores = dict(zip(setup.structure.index, method.scores(setup.network), strict=True))
    assert torch.allclose(scores["a.0"], setup.network.a[1].weight.detach().abs().double())


@pytest.mark.parametrize("method", [Slimming, Ista])
def test_networks_without_scales_that_may_change_are_refused(method: type[Slimming]) -> None:
    """Whether a BN remembers statistics does not matter."""
    without = Setup.of(randomized(without_batchnorm()))
    with pytest.raises(UsageError, match="pass a BN"):
        method().prepared(without.goal)
    network = plain()
    network[0][1] = nn.BatchNorm2d(8, track_running_stats=False)
    goal = Setup.of(randomized(network)).goal
    frozen = replace(goal, structure=goal.structure.leaving({"1.1.weight"}))
    method().prepared(frozen)
    frozen = replace(goal, structure=goal.structure.leaving({"0.1.weight", "1.1.weight"}))
    with pytest.raises(UsageError, match="whose scales may change"):
        method().prepared(frozen)
