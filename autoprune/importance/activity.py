"""Criteria on the activations that the consumers of a group read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.importance.base import Evidence, Importance, Need, Ranking, shares
from autoprune.statistics.activations import Activations, ClassMoments
from autoprune.structure.groups import ChannelGroup

# Share of the largest variance that is added to all: two constants are told apart by it.
SMALLEST_VARIANCE = 1e-9


def at_consumers(
    group: ChannelGroup, evidence: Evidence, what: Callable[[Activations], Tensor]
) -> list[Tensor]:
    """Return a statistic at every consumer that was seen, (…, units, entries of a unit) each."""
    return [
        what(seen).cpu()[..., torch.from_numpy(consumer.positions)]
        for consumer in group.consumers
        if (seen := evidence.activations.get(consumer.tensor)) is not None
    ]


def total(group: ChannelGroup, parts: Sequence[Tensor]) -> Tensor:
    """Return the sum over consumers, (units,)."""
    return sum(parts, torch.zeros(group.size, dtype=torch.float64))


class ApozImportance(Importance):
    """Share of activations that are not zero (1 − APoZ, Hu et al. 2016, eq. 1)."""

    name: ClassVar[str] = "apoz"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by rising percentage of zeros."""
        active = at_consumers(group, evidence, lambda seen: seen.active)
        return Ranking.by(total(group, [one.mean(1) for one in active]))


class MeanActivationImportance(Importance):
    """Mean absolute activation (Molchanov et al. 2017, section 2.2, "activation").

    Each consumer counts by its share, as scales differ along a residual stream. Behind ReLU the
    absolute value changes nothing; elsewhere large negative values count, too.
    """

    name: ClassVar[str] = "mean_activation"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling activation."""
        sizes = at_consumers(group, evidence, lambda seen: seen.magnitude)
        return Ranking.by(total(group, [shares(one.sum(1)) for one in sizes]))


class BatchNormImportance(Importance):
    """Mean |γ| of the BNs that a unit passes (Network Slimming, Liu et al. 2017, section 3.2).

    γ is the standard deviation of a normalised channel. A group without BN takes the standard
    deviation of its activations for it, so that one threshold cuts all groups.
    """

    name: ClassVar[str] = "bn_scale"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling scale, which is comparable across groups."""
        scales = _batchnorm_scales(group, evidence)
        if not scales:
            scales = at_consumers(group, evidence, lambda seen: seen.deviation)
        means = [scale.mean(1) for scale in scales]
        values = total(group, means) / max(1, len(means))
        return Ranking.by(values, scores=values)


def _batchnorm_scales(group: ChannelGroup, evidence: Evidence) -> list[Tensor]:
    """Return |γ| of every BN that the units pass, (units, entries) each."""
    scales = []
    for s in group.slices:
        path, _, leaf = s.tensor.rpartition(".")
        if leaf == "weight" and isinstance(evidence.model.get_submodule(path), _BatchNorm):
            gamma = evidence.model.get_parameter(s.tensor).detach().double().abs().cpu()
            scales.append(gamma[torch.from_numpy(s.positions)])
    return scales


class SeparationImportance(Importance):
    """Least distance between any two classes' activations (TVSPrune, Murti et al. 2023, section 4).

    The distance of two classes is the squared Hellinger distance of Gaussians with diagonal
    covariance, a lower bound on their total variation. A unit is worth what its least separated
    pair of classes is: where two classes look alike, the unit cannot tell them apart. Of a feature
    map its mean over positions is looked at; the `statistics.activations.MOST_CLASSES` most
    frequent classes are told apart, those with fewer than two samples are not.
    """

    name: ClassVar[str] = "tv_separation"
    needs: ClassVar[Need] = "labels"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling separation, that of the consumer where it is largest."""
        values = torch.zeros(group.size, dtype=torch.float64)
        for consumer in group.consumers:
            seen = evidence.activations.get(consumer.tensor)
            if seen is not None and seen.classes is not None:
                apart = least_separation(seen.classes, torch.from_numpy(consumer.positions))
                values = torch.maximum(values, apart.cpu())
        return Ranking.by(values)


def least_separation(classes: ClassMoments, positions: Tensor) -> Tensor:
    """Return every unit's least squared Hellinger distance between two classes, (units,).

    1 − Π √(2 σₐ σ_b / (σₐ² + σ_b²)) exp(−(μₐ − μ_b)² / 4 (σₐ² + σ_b²)), the product over the
    unit's entries.

    Args:
        classes: mean and variance by class.
        positions: channels of every unit, (units, entries).
    """
    mean, variance = classes.mean[:, positions], classes.variance[:, positions]
    if len(mean) < 2:
        return torch.zeros(len(positions), dtype=torch.float64)
    variance = variance + SMALLEST_VARIANCE * variance.max().clamp_min(1e-12)
    least = torch.full((len(positions),), torch.inf, dtype=torch.float64, device=mean.device)
    for a in range(len(mean) - 1):
        both = variance[a] + variance[a + 1 :]
        log_width = 0.5 * (2 * (variance[a] * variance[a + 1 :]).sqrt() / both).log()
        log_overlap = log_width - (mean[a] - mean[a + 1 :]).square() / (4 * both)
        least = torch.minimum(least, -log_overlap.sum(-1).expm1().amax(0))
    return least
