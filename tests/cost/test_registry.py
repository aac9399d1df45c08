"""Every kind of cost carries what budgets, results and tables need to know of it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from autoprune.cost import COSTS, COUNTED, cost_class, cost_models
from autoprune.cost.model import CostModel
from autoprune.structure.tracing.trace import trace

COUNTS = (
    *((0, "0"), (999, "999"), (1000, "1k"), (999_600, "1M"), (5_420_000, "5.42M")),
    *((125_486_400, "125M"), (999.6e6, "1G"), (4.1e9, "4.1G"), (2.5e15, "2500T")),
)


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_model_carries_what_others_ask_for(name: str) -> None:
    model = cost_class(name)
    assert model.name == name and model.title and model.unit
    assert 1 in model.budget_units.values()  # a bound is written back in the cost's own unit
    assert model.compared(200.0, 100.0) in ("50.00 % of dense", "2.00 times as fast")


@pytest.mark.parametrize(
    ("value", "dense", "shown"),
    [(91_508, 7_352_256, "0.013"), (50, 100, "0.5"), (3, 10, "0.3"), (9, 9, "1"), (0, 9, "0")],
)
def test_a_bound_that_is_named_can_be_kept_to(value: float, dense: float, shown: str) -> None:
    assert cost_class("flops").bound(value, dense) == f"flops={shown}"


def test_result_keys_are_distinct() -> None:
    assert len({cost_class(name).result_key for name in COSTS}) == len(COSTS)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        *(("flops", value, shown) for value, shown in COUNTS),
        ("params", 450, "450"),
        ("params", 3e9, "3G"),
        ("memory", 412_345, "412kB"),
        ("latency", 0.12345, "0.123 ms"),
    ],
)
def test_values_for_people(name: str, value: float, shown: str) -> None:
    assert cost_class(name).shown(value) == shown


def test_models_that_need_no_measurements() -> None:
    models = cost_models(trace(nn.Linear(4, 3), torch.randn(1, 4)))
    assert tuple(models) == COUNTED
    assert all(isinstance(model, CostModel) for model in models.values())


def test_a_budget_is_read_without_pytorch() -> None:
    budget = ",".join(f"{name}=0.5" for name in COSTS)
    script = (
        "import sys\n"
        "from autoprune.cost.budget import Budget\n"
        f"assert len(Budget.parse({budget!r}).limits) == {len(COSTS)}\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
