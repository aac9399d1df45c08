"""The contract of a cost model, which predicts a cost for any widths without building the network.

A new kind of cost is one subclass and one line in `cost/registry.py`: budgets, `result.json` and
the terminal's tables take its name, units and formats from the class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths


class CostModel(ABC):
    """Predicts one cost of the network cut to any widths.

    A model that needs no measurements is constructed with (structure, adds_bias), as in
    `registry.cost_models`.

    Attributes:
        name: The key in budgets, e.g. "flops".
        title: The name in tables, e.g. "MACs".
        unit: The unit of `total`, e.g. "MACs".
        budget_units: The suffixes that a bound in a budget may have, each with its size in `unit`;
            "" allows a number without a suffix. Upper and lower case are the same to the reader.
        result_key: The key in `costs.dense` and `costs.pruned` of `result.json`.
        is_monotone: Whether the cost never falls when a group grows.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    budget_units: ClassVar[Mapping[str, float]]
    result_key: ClassVar[str]
    is_monotone: ClassVar[bool] = True

    @abstractmethod
    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of every layer, by name; the values sum to `total`."""

    def total(self, widths: Widths) -> float:
        """Return the cost of the whole network."""
        return sum(self.by_layer(widths).values())

    def totals(self, widths: Sequence[Widths]) -> Floats:
        """Return the costs of several networks, (networks,); faster than one by one, if it can."""
        return np.array([self.total(one) for one in widths], dtype=float)

    @classmethod
    def shown(cls, value: float) -> str:
        """Return a value as people read it, with three digits and a suffix: "2.5M"."""
        for suffix, size in sorted(cls.budget_units.items(), key=lambda item: -item[1]):
            # 999.6k becomes 1M: the rounded figure decides.
            if (figure := float(f"{value / size:.3g}")) >= 1:
                return f"{figure:g}{suffix}"
        return f"{value:.0f}"

    @classmethod
    def bound(cls, value: float, dense: float) -> str:
        """Return the smallest bound, in thousandths of the dense cost, that a value keeps to."""
        thousandths = math.ceil(round(1000 * value / max(dense, 1e-9), 6))
        return f"{cls.name}={min(thousandths, 1000) / 1000:g}"

    @classmethod
    def compared(cls, dense: float, pruned: float) -> str:
        """Return for people how the cost of a pruned network relates to that of the dense one."""
        return f"{100 * pruned / dense:.2f} % of dense"
