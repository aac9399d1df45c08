"""The contract of importance criteria, for every built-in one."""

from __future__ import annotations

import pytest

from autoprune.importance import IMPORTANCES, Importance, make_importance
from autoprune.testing import ImportanceContract

SAMPLED = {"random", "coreset", "aofp"}


class TestBuiltIn(ImportanceContract):
    @pytest.fixture(autouse=True, params=IMPORTANCES)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name: str = request.param
        self.is_random = self.name in SAMPLED - {"aofp"}
        self.finds_dead_units = self.name != "random"
        # Units that are never zero are equal to APoZ, and equal units stay in their order.
        self.is_equivariant = self.name not in {*SAMPLED, "apoz"}

    def make(self) -> Importance:
        return make_importance(self.name)

    def test_it_is_registered_under_its_name(self) -> None:
        assert self.make().name == self.name
