"""Criteria on the size of the weights that make a unit."""

from __future__ import annotations

from typing import ClassVar

import torch

from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.structure.groups import ChannelGroup


class L1Importance(Importance):
    """Sum of absolute filter weights (Li et al. 2017, section 3.1).

    Every producer of a group counts by its share of that producer's total, so that one with large
    weights does not decide alone.
    """

    name: ClassVar[str] = "l1"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling norm."""
        scores = torch.zeros(group.size, dtype=torch.float64)
        for s in group.slices:
            if s.role == "producer":
                weight = evidence.model.get_parameter(s.tensor).detach().double().cpu()
                norms = weight.movedim(s.dim, 0).flatten(1).abs().sum(1)
                per_unit = norms[torch.from_numpy(s.positions)].sum(1)
                scores += per_unit / per_unit.sum().clamp_min(1e-30)
        return Ranking(tuple(scores.argsort(descending=True, stable=True).tolist()))
