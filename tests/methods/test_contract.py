"""Every method passes the shared suite."""

from __future__ import annotations

from typing import Any

from autoprune.methods.base import TrainingMethod
from autoprune.methods.registry import KIND, find_method
from autoprune.testing import MethodContract
from autoprune.testing.method_contract import with_twin_channels, with_weak_channels

# Options with which a method does something in a dozen steps.
OPTIONS: dict[str, dict[str, Any]] = {
    "group_lasso": {"channels": 0.01},
    "c_sgd": {"strength": 1.0},
    "resrep": {"sparsity": 0.1, "momentum": 0.9, "picks": 4},
    "autopruner": {"last": 2.0},
    "sss": {"sparsity": 0.1},
    "ista": {"sparsity": 0.1},
    "gdp": {"interval": 2},
    "lc": {"rounds": 4, "penalty": 0.1},
}


def suite(name: str) -> type[MethodContract]:
    class Suite(MethodContract):
        redundant = staticmethod(with_twin_channels if name == "c_sgd" else with_weak_channels)

        # Rows of a compactor can take over what others do, which vanish, too.
        others = 2 if name == "resrep" else 0

        def make(self) -> TrainingMethod:
            return find_method(name, OPTIONS.get(name, {}))

    return Suite


for _name in KIND.built_in:
    globals()[f"Test_{_name}"] = suite(_name)
