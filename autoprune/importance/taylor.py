"""First-order change of the loss as a criterion."""

from __future__ import annotations

import math
from typing import ClassVar

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.structure.groups import ChannelGroup, Structure

# λ, per million of the operations that one unit takes.
FLOPS_WEIGHT = 1e-3


class TaylorImportance(Importance):
    """|Σ a ∂L/∂a| of a unit's activations, averaged over samples (Molchanov et al. 2017, eq. 8).

    Activations are taken where the consumers read them: the terms of all consumers are what the
    loss changes by, to first order, if the unit is cut. For one threshold over all groups they are
    divided by their ℓ2 norm within the group (eq. 9), less λ times the operations that go with the
    unit (section 2.3: λ = 10⁻³ per million, two for each multiply-accumulate).
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[Need] = "gradients"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling change."""
        terms = evidence.taylor[group.name]
        normal = terms / terms.norm().clamp_min(1e-30)
        flops = 2 * _unit_macs(group, evidence.structure)
        return Ranking.by(terms, scores=normal - FLOPS_WEIGHT * flops / 1e6)


def _unit_macs(group: ChannelGroup, structure: Structure) -> float:
    """Return the multiply-accumulates that make one unit, those of depthwise layers included."""
    macs = 0.0
    for s in group.slices:
        layer = structure.layer_of_weight.get(s.tensor)
        if layer is not None and s.role != "consumer":
            shape = structure.shapes[s.tensor]
            weights = s.positions.shape[1] * math.prod(shape) // shape[s.dim]
            macs += layer.positions * weights
    return macs
