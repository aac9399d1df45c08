"""The contract of a cost model, as tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from torch import Tensor, nn

from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.structure.groups import Structure
from autoprune.structure.tracing.trace import trace
from autoprune.testing.small_networks import IMAGES, NETWORKS

VECTORS = 20


@dataclass(frozen=True, eq=False)
class Network:
    """A network to predict costs of.

    Attributes:
        model: the network in evaluation mode.
        inputs: one sample.
        structure: structure of the network.
    """

    model: nn.Module
    inputs: Tensor
    structure: Structure

    def widths(self) -> Iterator[Widths]:
        """Yield the dense widths, the smallest ones and random ones."""
        sizes = self.structure.dense_widths
        yield sizes
        yield (1,) * len(sizes)
        rng = np.random.default_rng(0)
        for _ in range(VECTORS):
            yield tuple(int(rng.integers(1, size + 1)) for size in sizes)


class CostModelContract:
    """Tests that every cost model passes; override `make`."""

    def make(self, network: Network) -> CostModel:
        """Return the cost model of a network."""
        raise NotImplementedError

    @pytest.fixture(params=NETWORKS)
    def network(self, request: pytest.FixtureRequest) -> Network:
        """A network with every kind of group."""
        model = NETWORKS[request.param]().eval()
        return Network(model, IMAGES[:1], trace(model, IMAGES[:1]))

    def test_it_has_a_name_and_a_unit(self, network: Network) -> None:
        """Budgets and tables refer to both."""
        cost = self.make(network)
        assert cost.name.isidentifier() and cost.unit

    def test_costs_are_finite_and_not_negative(self, network: Network) -> None:
        """Every layer has a cost at any widths, and the dense network costs something."""
        cost = self.make(network)
        for widths in network.widths():
            assert all(0 <= one < math.inf for one in cost.by_layer(widths).values())
            assert 0 <= cost.total(widths) < math.inf
        assert cost.total(network.structure.dense_widths) > 0

    def test_layers_sum_to_the_total(self, network: Network) -> None:
        """Tables by layer show the whole cost."""
        cost = self.make(network)
        for widths in network.widths():
            assert sum(cost.by_layer(widths).values()) == pytest.approx(cost.total(widths))

    def test_it_depends_on_the_widths_alone(self, network: Network) -> None:
        """The same widths cost the same, in any order of asking."""
        cost = self.make(network)
        vectors = list(network.widths())
        totals = [cost.total(widths) for widths in vectors]
        assert [cost.total(widths) for widths in reversed(vectors)] == totals[::-1]
        assert cost.totals(vectors).tolist() == pytest.approx(totals, rel=1e-12)

    def test_wider_is_not_cheaper_where_it_is_monotone(self, network: Network) -> None:
        """One unit more in any group never lowers a monotone cost."""
        cost = self.make(network)
        if not cost.is_monotone:
            pytest.skip("not monotone")
        for widths in network.widths():
            for group, size in enumerate(network.structure.dense_widths):
                wider = (*widths[:group], min(widths[group] + 1, size), *widths[group + 1 :])
                # Sums of floating-point numbers in another order.
                assert cost.total(wider) >= cost.total(widths) * (1 - 1e-12)
