"""The search space as Optuna has it: one float per group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.keep_ratio import SearchSpace


class View(ABC):
    """Keep ratios as parameters.

    Attributes:
        distributions: range of every parameter, by its name.
    """

    distributions: Mapping[str, BaseDistribution]

    @abstractmethod
    def parameters(self, widths: Widths) -> dict[str, float]:
        """Return the parameters that come nearest to widths."""

    def sees(self, widths: Widths) -> bool:
        """Return whether the nearest parameters are near enough to stand for widths."""
        return True

    @abstractmethod
    def ratios(self, params: Mapping[str, Any]) -> Floats:
        """Return the keep ratios that are meant, (groups,), before rounding."""


class GroupView(View):
    """The keep ratio of every group."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        lows = space.ratios(space.lowest)
        self.distributions = {
            name: FloatDistribution(low, 1.0)
            for name, low in zip(space.names, lows.tolist(), strict=True)
        }

    def parameters(self, widths: Widths) -> dict[str, float]:
        """Return the keep ratios of widths, by group name."""
        return dict(zip(self._space.names, self._space.ratios(widths).tolist(), strict=True))

    def ratios(self, params: Mapping[str, Any]) -> Floats:
        """Return the same in order."""
        return np.array([float(params[name]) for name in self._space.names])
