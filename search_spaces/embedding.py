"""Fewer coordinates for many groups: neighbours move together, and ever fewer of them.

A model of a hundred keep ratios learns nothing from a hundred trials. Neighbouring groups are
therefore put into bins, each one coordinate, and the bins are split as a search goes on (nested
embeddings: Papenmeier et al. 2022, "Increasing the scope as you learn: adaptive Bayesian
optimization in nested subspaces", section 3): what was evaluated in few coordinates has its place
in many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

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
        """Return keep ratios, (groups,), so many steps (bins,) away: e^step times as wide."""
        lengths = [end - start for start, end in self.bins]
        moved: Floats = self.centre * np.exp(np.repeat(steps, lengths))
        return moved

    def steps(self, ratios: Floats) -> Floats:
        """Return the steps (bins,) that come nearest to some keep ratios, by their logarithms."""
        moves = np.log(ratios / self.centre)
        return np.array([moves[start:end].mean() for start, end in self.bins])


def split_bins(weights: Sequence[float], count: int) -> list[Bin]:
    """Return so many bins of neighbouring groups; more of them are parts of fewer.

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
