"""Contract suites for plug-ins, to run with pytest.

A suite is a class of tests. Subclass it in a test file under a name that pytest collects, and say
how the plug-in is made:

    from autoprune.testing import ImportanceContract

    class TestMine(ImportanceContract):
        def make(self):
            return MyImportance()

Class attributes of a suite describe what a plug-in does not promise. The suites need pytest, which
`pip install autoprune` does not install.
"""

from __future__ import annotations

import pytest

# Before the imports: assertions in the suites then explain themselves as in any test file.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{kind}_contract"
        for kind in (
            *("backend", "cost_model", "exporter", "importance", "method", "reward", "strategy"),
        )
    )
)

from autoprune.testing.backend_contract import BackendContract  # noqa: E402
from autoprune.testing.cost_model_contract import CostModelContract  # noqa: E402
from autoprune.testing.exporter_contract import ExporterContract  # noqa: E402
from autoprune.testing.importance_contract import ImportanceContract  # noqa: E402
from autoprune.testing.method_contract import MethodContract  # noqa: E402
from autoprune.testing.reward_contract import RewardContract  # noqa: E402
from autoprune.testing.strategy_contract import StrategyContract  # noqa: E402

__all__ = [
    "BackendContract",
    "CostModelContract",
    "ExporterContract",
    "ImportanceContract",
    "MethodContract",
    "RewardContract",
    "StrategyContract",
]
