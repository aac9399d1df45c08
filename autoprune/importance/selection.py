"""Criteria that select units by their contributions to the outputs of the next layers.

All use the products of contributions (`consumer_inputs.Contributions`), which follow exactly from
the moments of the consumers' inputs: nothing is sampled from feature maps.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from autoprune.importance.base import Evidence, Importance, Need, Ranking
from autoprune.importance.consumer_inputs import Contributions, contributions
from autoprune.structure.groups import ChannelGroup

# Random masks per round of AOFP.
MASKS = 256


class LassoImportance(Importance):
    """The order in which units enter a lasso (channel pruning, He et al. 2017, eq. 2, step i).

    min over β of ‖Y − Σ βᵢ Xᵢ Wᵢᵀ‖² + λ‖β‖₁ with ‖Wᵢ‖ = 1, for all λ at once: the path by
    least-angle regression. The unit that enters first, at the largest λ, ranks highest. A unit that
    leaves the path and returns keeps its first place, so that selections are nested.
    """

    name: ClassVar[str] = "lasso"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units in the order of entry; those that never enter by correlation."""
        return Ranking.by(-lasso_entries(contributions(group, evidence)))


def lasso_entries(parts: Contributions) -> Float64[Tensor, " units"]:
    """Return the step of the lasso's path at which each unit enters."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram

    usable = (parts.between.diagonal() > 0) & (parts.weights > 0)
    scale = torch.where(usable, parts.weights, 1.0)
    correlation = parts.target / scale
    # Units that never enter come last, the most correlated of them first, useless ones at the end.
    behind = 1 - correlation.abs() / correlation.abs().max().clamp_min(1e-30)
    entries = torch.where(usable, len(usable) * 100.0 + behind, torch.inf)
    which = usable.nonzero().flatten()
    if not len(which):
        return entries
    gram = parts.between / torch.outer(scale, scale)
    with warnings.catch_warnings():
        # Of duplicates, one is left out of the path, as it should be.
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, _, coefficients = lars_path_gram(
            Xy=correlation[which].numpy(),
            Gram=gram[which][:, which].numpy(),
            n_samples=1,
            max_iter=50 * len(which),
            method="lasso",
        )
    used = torch.from_numpy(coefficients) != 0
    entered = used.any(1)
    entries[which[entered]] = used[entered].double().argmax(1).double()
    return entries


class ThiNetImportance(Importance):
    """Greedy choice of the units to remove (ThiNet, Luo et al. 2017, eq. 6 and algorithm 1).

    The set T of removed units grows by the one that keeps ‖Σ over T of zⱼ‖² smallest, the error at
    the next layer's outputs. The paper samples single output values; here all of them count.
    """

    name: ClassVar[str] = "thinet"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units, the last removed first."""
        between = contributions(group, evidence).between
        cost = between.diagonal().clone()
        removed: list[int] = []
        for _ in range(group.size):
            unit = int(cost.argmin())
            removed.append(unit)
            cost += 2 * between[unit]
            cost[torch.tensor(removed)] = torch.inf
        return Ranking(tuple(reversed(removed)))


class AofpImportance(Importance):
    """Sampled oracle (approximated oracle filter pruning, Ding et al. 2019, section 3).

    The oracle estimates the damage of removing a unit together with others. Random halves of the
    units are masked. The score of a unit is the mean damage at the next layer's output (the paper's
    damage isolation) of the masks that include it, minus that of the same masks without it, since
    paired differences have less noise. The half with the least damage is removed, and the procedure
    repeats on the other half until one unit is left.
    """

    name: ClassVar[str] = "aofp"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units, the last removed first."""
        between = contributions(group, evidence).between
        generator = torch.Generator().manual_seed(evidence.seed_of(group))
        left, removed = torch.arange(group.size), torch.arange(0)
        while len(left):
            damage = mean_damage(between, left, removed, generator)
            worst_last = left[damage.argsort(stable=True)]
            half = -(-len(left) // 2)
            removed = torch.cat([removed, worst_last[:half]])
            left = worst_last[half:].sort().values
        return Ranking(tuple(removed.flip(0).tolist()))


def mean_damage(
    between: Float64[Tensor, "units units"],
    left: Int[Tensor, " left"],
    removed: Int[Tensor, " removed"],
    generator: torch.Generator,
) -> Float64[Tensor, " left"]:
    """Return the mean damage of masking each unit together with a random half of the others.

    Args:
        between: products of contributions.
        left: units to score.
        removed: units that every mask includes.
        generator: source of the random masks.
    """
    masks = torch.zeros(MASKS, len(between), dtype=between.dtype)
    chosen = torch.rand(MASKS, len(left), generator=generator).argsort(1)[:, : len(left) // 2]
    masks.scatter_(1, left[chosen], 1.0)
    masks[:, removed] = 1.0
    own = between.diagonal()[left]
    # ‖z_T + zⱼ‖² − ‖z_T‖² for T without j, whether or not the mask has it.
    with_others = (masks @ between)[:, left] - masks[:, left] * own
    damage = (own + 2 * with_others).mean(0)
    # Removing a contribution may even help; a unit without any always ranks last.
    return torch.where(own > 0, damage, -torch.inf)
