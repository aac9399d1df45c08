from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoprune.sparsity.layout import sparse_weights
from autoprune.sparsity.patterns import Blocks, FewOfEvery
from autoprune.statistics.moments import matrix_of
from autoprune.structure.tracing.trace import trace
from autoprune.testing import small_networks
from autoprune.testing.small_networks import IMAGES


@pytest.mark.parametrize(
    "make", [small_networks.plain, small_networks.grouped, small_networks.transposed]
)
def test_a_matrix_and_back(make: Callable[[], nn.Module]) -> None:
    """Columns go by kernel tap; `columns` finds them among patches, which go by channel."""
    network = make().eval()
    found = list(sparse_weights(network, trace(network, IMAGES[:2]), Blocks()))
    assert found
    for own in found:
        weight = own.weight.detach()
        assert torch.equal(own.restored(own.matrix), weight)
        channels = weight.shape[own.layer.in_dim]
        assert torch.equal(own.matrix[0, :channels], _first_output(own.layer.in_dim, weight))
        if not own.layer.is_transposed:
            assert torch.equal(matrix_of(own.layer, weight)[:, own.columns], own.matrix)


def _first_output(in_dim: int, weight: torch.Tensor) -> torch.Tensor:
    """Return what all inputs have at the first output and kernel tap."""
    return weight.select(1 - in_dim, 0).flatten(1)[:, 0] if weight.dim() > 2 else weight[0]


def test_only_what_may_change_and_divides() -> None:
    network = small_networks.plain().eval()
    structure = trace(network, IMAGES[:2])
    every = [own.layer.weight for own in sparse_weights(network, structure, Blocks())]
    network.get_parameter(every[1]).requires_grad_(False)
    left = [own.layer.weight for own in sparse_weights(network, structure, Blocks())]
    assert left == [every[0], *every[2:]]
    fitting = [own.layer.weight for own in sparse_weights(network, structure, FewOfEvery(2, 4))]
    assert every[0] not in fitting  # it reads three channels
