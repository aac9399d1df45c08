"""Every method passes the shared suite."""

from __future__ import annotations

from typing import Any

from autoprune.methods.base import TrainingMethod
from autoprune.methods.registry import KIND, find_method
from autoprune.testing import MethodContract

# Options with which a method does something in a dozen steps.
OPTIONS: dict[str, dict[str, Any]] = {}


def suite(name: str) -> type[MethodContract]:
    class Suite(MethodContract):
        def make(self) -> TrainingMethod:
            return find_method(name, OPTIONS.get(name, {}))

    return Suite


for _name in KIND.built_in:
    globals()[f"Test_{_name}"] = suite(_name)
