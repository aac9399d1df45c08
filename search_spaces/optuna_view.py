"""The search space as Optuna sees it: one float per group, or per bin of groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from autoprune.policy import Widths
from autoprune.search_spaces.embedding import Embedding, Floats
from autoprune.search_spaces.keep_ratio import SearchSpace

# Widths no more than so many times as far away as a view reaches are taken for its border.
SLACK = 1.5


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
        """Whether the nearest parameters say much of widths."""
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


class BinView(View):
    """Steps of whole bins of groups, no longer than a reach."""

    def __init__(self, space: SearchSpace, embedding: Embedding, reach: float) -> None:
        self._space = space
        self._embedding = embedding
        self._reach = reach
        self._names = [f"{space.names[start]} …" for start, _ in embedding.bins]
        self.distributions = {name: FloatDistribution(-reach, reach) for name in self._names}

    def parameters(self, widths: Widths) -> dict[str, float]:
        """Return the steps within reach that come nearest to widths."""
        near = self._steps(widths).clip(-self._reach, self._reach)
        return dict(zip(self._names, near.tolist(), strict=True))

    def sees(self, widths: Widths) -> bool:
        """Whether widths are not far beyond reach."""
        return bool(np.abs(self._steps(widths)).max() <= SLACK * self._reach)

    def _steps(self, widths: Widths) -> Floats:
        return self._embedding.steps(self._space.ratios(widths))

    def ratios(self, params: Mapping[str, Any]) -> Floats:
        """Return the keep ratios after steps."""
        steps = np.array([float(params[name]) for name in self._names])
        return self._embedding.ratios(steps).clip(0.0, 1.0)
