"""First-order change of the loss as a criterion."""

from __future__ import annotations

import math
from typing import ClassVar

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.structure.groups import ChannelGroup, Structure

# λ, per million operations of one unit.
FLOPS_WEIGHT = 1e-3


class TaylorImportance(Importance):
    """|Σ a ∂L/∂a| of a unit's activations, averaged over samples (Molchanov et al. 2017, eq. 8).

    Activations are taken at the inputs of the consumers: the sum over consumers is the first-order
    change of the loss if the unit is removed. For one threshold over all groups they are divided by
    their ℓ2 norm within the group (eq. 9), minus λ times the operations saved with the unit
    (section 2.3: λ = 10⁻³ per million, two for each multiply-accumulate).
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
    """Return the multiply-accumulates that compute one unit, depthwise layers included."""
    macs = 0.0
    for s in group.slices:
        layer = structure.layer_of_weight.get(s.tensor)
        if layer is not None and s.role != "consumer":
            shape = structure.shapes[s.tensor]
            weights = s.positions.shape[1] * math.prod(shape) // shape[s.dim]
            macs += layer.positions * weights
    return macs
