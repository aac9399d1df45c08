from __future__ import annotations

import pytest
import torch

from autoprune.structure.dense_shape import embedded
from autoprune.structure.surgery import apply_policy
from autoprune.structure.tracing.trace import trace
from autoprune.testing.small_networks import IMAGES, NETWORKS, randomized


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dense_shape_computes_what_the_pruned_network_does(name: str) -> None:
    """Whatever its weights have become; cut again by the same policy, it is that network."""
    dense = randomized(NETWORKS[name]())
    structure = trace(dense, IMAGES[:2])
    policy = structure.policy([range(1, group.size, 2) for group in structure.groups])
    small = apply_policy(dense, policy)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        whole = embedded(dense, small, policy)
        assert torch.allclose(whole(IMAGES), small(IMAGES), atol=1e-5)
    again = apply_policy(whole, policy).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in small.state_dict().items())
    assert any(not bool(one.all()) for one in whole.parameters())
