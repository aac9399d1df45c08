"""The contract of a cost model: what a network of any widths costs, without building it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from autoprune.core.policy import Widths


class CostModel(ABC):
    """Predicts one cost of the network cut to any widths.

    Attributes:
        name: the key in budgets, e.g. "flops".
        unit: of `total`, e.g. "MACs".
        is_monotone: whether no group that grows can make it fall.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    is_monotone: ClassVar[bool] = True

    @abstractmethod
    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        """Return the cost of every layer, by name; the values sum to `total`."""

    def total(self, widths: Widths) -> float:
        """Return the cost of the whole network."""
        return sum(self.by_layer(widths).values())
