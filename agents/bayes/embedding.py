"""Fewer coordinates for many groups: neighbours move together, and ever fewer of them.

A model of a hundred keep ratios learns nothing from a hundred trials. Neighbouring groups are
therefore put into bins, each one coordinate, and the bins are split as a search goes on (nested
embeddings: Papenmeier et al. 2022, "Increasing the scope as you learn: adaptive Bayesian
optimization in nested subspaces", section 3): what was evaluated in few coordinates has its place
in many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from optuna.distributions import FloatDistribution

from autoprune.core.arrays import Floats
from autoprune.core.policy import Widths
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.optuna_view import View

Bin: TypeAlias = tuple[int, int]
"""The first group, and the one behind the last."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Steps away from some keep ratios, alike within each bin of groups.

    Attributes:
        centre: the keep ratios, (groups,).
        bins: of neighbouring groups, in order; every group is in one.
    """

    centre: Floats
    bins: Sequence[Bin]

    def ratios(self, steps: Floats) -> Floats:
        """Return keep ratios (groups,), e^step times the centre's, from steps (bins,)."""
        lengths = [end - start for start, end in self.bins]
        moved: Floats = self.centre * np.exp(np.repeat(steps, lengths))
        return moved

    def steps(self, ratios: Floats) -> Floats:
        """Return the steps (bins,) that come nearest to some keep ratios, by their logarithms."""
        moves = np.log(ratios / self.centre)
        return np.array([moves[start:end].mean() for start, end in self.bins])


class BinView(View):
    """Steps of whole bins of groups, no longer than a reach."""

    def __init__(
        self, space: SearchSpace, embedding: Embedding, reach: float, slack: float
    ) -> None:
        """Take how far steps go, and what times that is still seen, as the border."""
        self._space = space
        self._embedding = embedding
        self._reach, self._slack = reach, slack
        self._names = [f"{space.names[start]} …" for start, _ in embedding.bins]
        self.distributions = {name: FloatDistribution(-reach, reach) for name in self._names}

    def parameters(self, widths: Widths) -> dict[str, float]:
        """Return the steps within reach that come nearest to widths."""
        near = self._steps(widths).clip(-self._reach, self._reach)
        return dict(zip(self._names, near.tolist(), strict=True))

    def sees(self, widths: Widths) -> bool:
        """Whether widths are not far beyond reach."""
        return bool(np.abs(self._steps(widths)).max() <= self._slack * self._reach)

    def _steps(self, widths: Widths) -> Floats:
        return self._embedding.steps(self._space.ratios_above_zero(widths))

    def ratios(self, params: Mapping[str, Any]) -> Floats:
        """Return the keep ratios after steps."""
        steps = np.array([float(params[name]) for name in self._names])
        return self._embedding.ratios(steps).clip(0.0, 1.0)


def split_bins(weights: Sequence[float], count: int) -> list[Bin]:
    """Return bins of neighbouring groups; with a larger count they are parts of the former ones.

    Again and again the heaviest bin is split where its halves weigh most alike.

    Args:
        weights: of the groups, positive.
        count: of the bins; no more than there are groups.
    """
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    bins = [(0, len(weights))]
    while len(bins) < count:
        place, (start, end) = max(
            ((i, one) for i, one in enumerate(bins) if one[1] - one[0] > 1),
            key=lambda pair: sums[pair[1][1]] - sums[pair[1][0]],
        )
        middle = (sums[start] + sums[end]) / 2
        cut = start + 1 + int(np.abs(sums[start + 1 : end] - middle).argmin())
        bins[place : place + 1] = [(start, cut), (cut, end)]
    return bins
