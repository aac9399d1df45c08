"""The contract of cost models, for every built-in one."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.cost import cost_models
from autoprune.cost.latency.model import LatencyCost
from autoprune.cost.model import CostModel
from autoprune.testing import CostModelContract
from autoprune.testing.cost_model_contract import Network


class TestPredicted(CostModelContract):
    @pytest.fixture(autouse=True, params=["flops", "params", "memory"])
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name: str = request.param

    def make(self, network: Network) -> CostModel:
        return cost_models(network.structure)[self.name]


class TestLatency(CostModelContract):
    test_wider_is_not_cheaper_where_it_is_monotone = None  # latency need not be

    @pytest.fixture(autouse=True)
    def _measured(self, stair_table: Any) -> None:
        self.table = stair_table

    def make(self, network: Network) -> CostModel:
        return LatencyCost(network.structure, self.table(network.model, network.inputs))
