"""Cuts that methods promise to be lossless, on states in which they have converged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoprune.data import Samples
from autoprune.engine.train import MERGE_HOLDS, Shaped
from autoprune.methods.c_sgd import CentripetalSgd, representatives
from autoprune.methods.resrep import ResRep
from autoprune.methods.sss import SparseStructureSelection
from autoprune.structure.surgery import apply_policy, deep_copy
from autoprune.testing import small_networks
from autoprune.testing.method_contract import IMAGES, NETWORKS, Setup, difference
from autoprune.testing.small_networks import randomized


@pytest.fixture(params=NETWORKS)
def setup(request: pytest.FixtureRequest) -> Setup:
    make: Callable[[], nn.Module] = getattr(small_networks, request.param)
    return Setup.of(randomized(make()))


def cut(setup: Setup, network: nn.Module, stays: list[torch.Tensor]) -> nn.Module:
    kept = [own.nonzero()[:, 0].tolist() for own in stays]
    return apply_policy(network, setup.structure.policy(kept))


def test_equal_clusters(setup: Setup) -> None:
    """Everything that makes the units of a cluster is equal: one stands for all."""
    method = CentripetalSgd().prepared(setup.goal)
    network = deep_copy(setup.network)
    method.start(network)
    for group, own in zip(setup.structure.groups, method._clusters, strict=True):
        first = {int(own[one]): int(one) for one in representatives(own)}
        source = torch.tensor([first[int(label)] for label in own])
        state = network.state_dict()
        for part in group.slices:
            if part.role != "consumer":
                lines = state[part.tensor].movedim(part.dim, 0)
                positions = torch.from_numpy(part.positions)
                lines[positions.reshape(-1)] = lines[positions[source].reshape(-1)].clone()
    merged = method.merge(deep_copy(network))
    assert difference(network, merged) < 1e-4
    stays = [own >= 1 for own in method.scores(merged)]
    assert any(not bool(own.all()) for own in stays)
    assert difference(network, cut(setup, merged, stays)) < 1e-4
    shaped = Shaped(network, method, None, 1, Samples(IMAGES, None))
    assert shaped.to_cut is shaped.merged


def test_clusters_that_are_not_equal_are_not_merged(setup: Setup) -> None:
    """One unit does not do what the others do: the sum of what reads them would be useless."""
    method = CentripetalSgd().prepared(setup.goal)
    method.start(setup.network)
    shaped = Shaped(setup.network, method, None, 1, Samples(IMAGES, None))
    assert shaped.remaining is not None and shaped.remaining > MERGE_HOLDS
    assert shaped.to_cut is setup.network


def test_factors_of_zero(setup: Setup) -> None:
    method = SparseStructureSelection().prepared(setup.goal)
    network = deep_copy(setup.network)
    method.start(network)
    with torch.no_grad():
        for gate in method.gates.values():
            gate.uniform_(0.5, 1.5)[::2] = 0.0
    inside = method.called(deep_copy(network)).eval()
    plain = method.finish(network)
    stays = [own > 0 for own in method.scores(plain)]
    assert difference(inside, plain) < 1e-5
    assert difference(plain, cut(setup, plain, stays)) < 1e-5


def test_streams_that_are_normalised_have_no_compactor() -> None:
    """LayerNorm would not see a row of zero as a channel that is not there."""
    setup = Setup.of(randomized(small_networks.normalized()))
    method = ResRep().prepared(setup.goal)
    method.start(deep_copy(setup.network).train())
    mixed = {group.name for group in setup.structure.groups if group.mixed}
    assert mixed == {"patches"} and method._compactors.keys() == {"mlp.0"}


@pytest.mark.parametrize("name", ["plain", "residual", "concatenated"])
def test_rows_of_zero(name: str) -> None:
    """Rows of zero silence their channels behind the BN; with a depthwise layer its BN does not."""
    setup = Setup.of(randomized(getattr(small_networks, name)()))
    method = ResRep().prepared(setup.goal)
    network = deep_copy(setup.network).train()
    method.start(network)
    assert method._compactors.keys() == {group.name for group in setup.structure.groups}
    with torch.no_grad():
        for matrix in method._compactors.values():
            matrix.add_(0.2 * torch.randn(matrix.shape))[1::3] = 0.0
    inside = method.called(deep_copy(network)).eval()
    plain = method.finish(network.eval())
    assert difference(inside, plain) < 1e-4
    stays = [own > 0 for own in method.scores(plain)]
    assert difference(plain, cut(setup, plain, stays)) < 1e-4
