"""Budgets on costs other than MACs, from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import FEW

import autoprune
from autoprune.data import load_splits
from autoprune.models.demo import load_demo


@pytest.mark.parametrize(
    "budget", ["memory=400kb", "memory=0.6", "flops=0.5,memory=0.7,params=0.6"]
)
def test_every_bound_is_met_and_spent(budget: str, tmp_path: Path) -> None:
    options = {**FEW, "budget": budget, "output": tmp_path / "run"}
    run = autoprune.search(load_demo(), data=load_splits("digits"), **options)
    costs = run.result["costs"]
    tensors = run.model.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert weights < costs["pruned"]["memory_bytes"] < costs["dense"]["memory_bytes"]
    bounds = {
        "memory=400kb": {"memory_bytes": 400_000 / costs["dense"]["memory_bytes"]},
        "memory=0.6": {"memory_bytes": 0.6},
    }.get(budget, {"flops": 0.5, "memory_bytes": 0.7, "params": 0.6})
    shares = {name: costs["pruned"][name] / costs["dense"][name] for name in bounds}
    assert all(shares[name] <= bound + 1e-6 for name, bound in bounds.items())
    assert any(shares[name] > bound - 0.02 for name, bound in bounds.items())
