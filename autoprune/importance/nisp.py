"""Importance propagated back from the network's final responses."""

from __future__ import annotations

from typing import ClassVar

import torch

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.statistics.consumers import unit_sums
from autoprune.structure.groups import ChannelGroup


class NispImportance(Importance):
    """Importance of final responses, propagated (NISP, Yu et al. 2018, eq. 10 and algorithm 1).

    sₖ = |W⁽ᵏ⁺¹⁾|ᵀ sₖ₊₁ through every layer (`statistics.propagation`). The final responses are the
    inputs of the last layer. They are ranked by infinite feature selection (Roffo et al. 2015) on
    their spread and correlation, and equally where these are not known.
    """

    name: ClassVar[str] = "nisp"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling importance, summed over consumers."""
        parts = unit_sums(group, evidence.propagated.get)
        return Ranking.by(sum(parts, torch.zeros(group.size, dtype=torch.float64)))
