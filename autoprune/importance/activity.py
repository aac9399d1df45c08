"""Criteria on the activations at the inputs of a group's consumers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.importance.base import Evidence, Importance, Need, Ranking, shares
from autoprune.statistics.activations import Activations, ClassMoments
from autoprune.structure.groups import ChannelGroup

# Fraction of the largest variance that is added to all, so that two constants can be separated.
SMALLEST_VARIANCE = 1e-9


def at_consumers(
    group: ChannelGroup,
    evidence: Evidence,
    statistic: Callable[[Activations], Float64[Tensor, "*batch channels"]],
) -> list[Float64[Tensor, "*_batch {group.size} _entries"]]:
    """Return a statistic of every unit at every consumer with known activations."""
    return [
        statistic(seen).cpu()[..., torch.from_numpy(consumer.positions)]
        for consumer in group.consumers
        if (seen := evidence.activations.get(consumer.tensor)) is not None
    ]


def total(
    group: ChannelGroup, parts: Sequence[Float64[Tensor, " {group.size}"]]
) -> Float64[Tensor, " {group.size}"]:
    """Return the sum over consumers."""
    return sum(parts, torch.zeros(group.size, dtype=torch.float64))


class ApozImportance(Importance):
    """Fraction of activations that are not zero (1 − APoZ, Hu et al. 2016, eq. 1)."""

    name: ClassVar[str] = "apoz"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by rising percentage of zeros."""
        active = at_consumers(group, evidence, lambda seen: seen.active)
        return Ranking.by(total(group, [one.mean(1) for one in active]))


class MeanActivationImportance(Importance):
    """Mean absolute activation (Molchanov et al. 2017, section 2.2, "activation").

    Every consumer is normalised by its sum, since scales differ along a residual stream. Behind a
    ReLU the absolute value changes nothing; elsewhere large negative values count, too.
    """

    name: ClassVar[str] = "mean_activation"
    needs: ClassVar[Need] = "images"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling activation."""
        sizes = at_consumers(group, evidence, lambda seen: seen.magnitude)
        return Ranking.by(total(group, [shares(one.sum(1)) for one in sizes]))


class BatchNormImportance(Importance):
    """Mean |γ| of the BNs that a unit passes (Network Slimming, Liu et al. 2017, section 3.2).

    γ is the standard deviation of a normalised channel. In a group without BN the standard
    deviation of the activations replaces it, so that one threshold is valid for all groups.
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


def _batchnorm_scales(
    group: ChannelGroup, evidence: Evidence
) -> list[Float64[Tensor, "{group.size} _entries"]]:
    """Return |γ| of every BN that the units pass."""
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
    covariance, a lower bound on their total variation. The score of a unit is that of its least
    separated pair of classes, which it cannot distinguish. Feature maps are averaged over
    positions. Only the `statistics.activations.MOST_CLASSES` most frequent classes with at least
    two samples are considered.
    """

    name: ClassVar[str] = "tv_separation"
    needs: ClassVar[Need] = "labels"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling separation, at the consumer where it is largest."""
        values = torch.zeros(group.size, dtype=torch.float64)
        for consumer in group.consumers:
            seen = evidence.activations.get(consumer.tensor)
            if seen is not None and seen.classes is not None:
                apart = least_separation(seen.classes, torch.from_numpy(consumer.positions))
                values = torch.maximum(values, apart.cpu())
        return Ranking.by(values)


def least_separation(
    classes: ClassMoments, positions: Int[Tensor, "units entries"]
) -> Float64[Tensor, " units"]:
    """Return every unit's least squared Hellinger distance between two classes.

    1 − Π √(2 σₐ σ_b / (σₐ² + σ_b²)) exp(−(μₐ − μ_b)² / 4 (σₐ² + σ_b²)), the product over the
    unit's entries.

    Args:
        classes: mean and variance by class.
        positions: channels of every unit.
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
