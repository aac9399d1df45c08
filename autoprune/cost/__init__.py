"""Predicts what a network of any widths costs, and reads the budgets that bound it."""

from __future__ import annotations

from autoprune.cost.registry import COSTS, COUNTED, cost_class, cost_models

__all__ = ["COSTS", "COUNTED", "cost_class", "cost_models"]
