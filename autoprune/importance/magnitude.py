"""Criteria on the filters of a unit, which use nothing but weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from autoprune.importance.base import Evidence, Importance, Need, Ranking, shares
from autoprune.structure.groups import ChannelGroup


def filters(
    group: ChannelGroup, evidence: Evidence
) -> Iterator[Float64[Tensor, "{group.size} weights"]]:
    """Yield every producer's filters by unit, on the CPU."""
    for s in group.slices:
        if s.role == "producer":
            weight = evidence.model.get_parameter(s.tensor).detach().double().cpu()
            yield weight.movedim(s.dim, 0).flatten(1)[torch.from_numpy(s.positions)].flatten(1)


class _FilterImportance(Importance):
    """Ranks by a score of filters.

    The scores of every producer are divided by their sum, so that one with large weights does not
    dominate.
    """

    needs: ClassVar[Need] = "nothing"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return units by falling score."""
        parts = [shares(self.score(one)) for one in filters(group, evidence)]
        return Ranking.by(torch.stack(parts).sum(0))

    @abstractmethod
    def score(self, filters: Float64[Tensor, "units weights"]) -> Float64[Tensor, " units"]:
        """Return the scores of filters."""


class L1Importance(_FilterImportance):
    """Sum of absolute filter weights (Li et al. 2017, section 3.1)."""

    name: ClassVar[str] = "l1"

    def score(self, filters: Float64[Tensor, "units weights"]) -> Float64[Tensor, " units"]:
        """Return norms."""
        return filters.abs().sum(1)


class L2Importance(_FilterImportance):
    """Euclidean norm of the filters (Li et al. 2017, section 4.5; NetAdapt, Yang et al. 2018)."""

    name: ClassVar[str] = "l2"

    def score(self, filters: Float64[Tensor, "units weights"]) -> Float64[Tensor, " units"]:
        """Return norms."""
        norms: Tensor = torch.linalg.vector_norm(filters, dim=1)
        return norms


class GeometricMedianImportance(_FilterImportance):
    """Summed distance to all other filters (FPGM, He et al. 2019, eq. 4 to 6).

    The filter closest to the geometric median of all filters is the one that the others can replace
    best; it is removed first.
    """

    name: ClassVar[str] = "geometric_median"

    def score(self, filters: Float64[Tensor, "units weights"]) -> Float64[Tensor, " units"]:
        """Return summed distances."""
        # Not by matrix products, which lose small distances to rounding.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(filters, filters, compute_mode=exact).sum(1)


class RandomImportance(Importance):
    """A random order of every group, the baseline of all criteria."""

    name: ClassVar[str] = "random"
    needs: ClassVar[Need] = "nothing"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return an order drawn with the group's seed."""
        generator = torch.Generator().manual_seed(evidence.seed_of(group))
        return Ranking(tuple(torch.randperm(group.size, generator=generator).tolist()))


class CoresetImportance(Importance):
    """Sampled by sensitivity (coresets of neurons, Mussay et al. 2020, algorithm 1 and theorem 7).

    A unit with incoming weights p and outgoing weights w is drawn in proportion to its share of
    max |w| ‖p‖, which bounds its contribution behind a ReLU for any input in a ball. Units are
    drawn without replacement, so that the units kept at a width include those at smaller widths.
    """

    name: ClassVar[str] = "coreset"
    needs: ClassVar[Need] = "nothing"

    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the units in the order in which they are drawn."""
        norms = torch.stack([shares(f.norm(dim=1)) for f in filters(group, evidence)]).sum(0)
        readers = sum(
            (shares(r) for r in _largest_outgoing(group, evidence)), torch.zeros_like(norms)
        )
        if not group.consumers:  # products of activations have no weights
            readers = torch.ones_like(norms)
        generator = torch.Generator().manual_seed(evidence.seed_of(group))
        # The k largest of log p + Gumbel noise are a draw of k without replacement.
        noise = torch.rand(group.size, generator=generator, dtype=torch.float64)
        gumbel = -(-noise.clamp_min(1e-300).log()).log()
        return Ranking.by((norms * readers).log() + gumbel)


def _largest_outgoing(
    group: ChannelGroup, evidence: Evidence
) -> Iterator[Float64[Tensor, " {group.size}"]]:
    """Yield the largest absolute outgoing weight of every unit, for each consumer."""
    for consumer in group.consumers:
        weight = evidence.model.get_parameter(consumer.tensor).detach().double().cpu()
        columns = weight.movedim(consumer.dim, 0).flatten(1).abs().amax(1)
        yield columns[torch.from_numpy(consumer.positions)].amax(1)
