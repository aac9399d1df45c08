"""Structured sparsity learning: a group lasso on filters, channels and layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.agents.config import Amount
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.methods.units import entries
from autoprune.structure.groups import ChannelGroup


@dataclass(frozen=True)
class GroupLassoConfig:
    """How strongly norms are penalised.

    Attributes:
        filters: λ_n, the weight of the norms of filters, which make a channel.
        channels: λ_c, the weight of the norms of what reads a channel.
        depth: λ_d, the weight of the norms of whole layers whose outputs are added to a shortcut.
        threshold: without a budget, units with a larger mean absolute weight stay.
    """

    filters: Amount = 0.0
    channels: Amount = 8e-4
    depth: Amount = 0.0
    threshold: Amount = 1e-3


class GroupLasso(TrainingMethod):
    """Learning structured sparsity in deep neural networks (SSL, Wen et al. 2016).

    Equations 3 and 6: loss + λ_n Σ‖W[n]‖ + λ_c Σ‖W[:, c]‖ + λ_d Σ‖W‖, norms of filters, of input
    channels and of layers beside a shortcut, by their gradient. The score of a unit is the mean
    absolute value of what is penalised of it; the smaller one where filters and channels are.

    λ_c = 8e-4 is that of Intel's Distiller for channels of ResNet-20, as is the measure "mean_abs";
    there λ_n is 2e-4 to 1.2e-3 and λ_d 4e-3. The threshold without a budget is ours. The paper's
    λ_s, on columns of the shapes of filters, is left out: it removes no channels. Costs one pass
    over the weights in a step.
    """

    name: ClassVar[str] = "group_lasso"
    config = GroupLassoConfig()

    @property
    def least_score(self) -> float:
        """The threshold."""
        return float(self.config.threshold)

    def check(self, goal: Goal) -> None:
        """Refuse a penalty on nothing."""
        if not (self.config.filters or self.config.channels):
            raise UsageError(
                "the method 'group_lasso' needs filters or channels above 0: units are scored by "
                "what is penalised of them."
            )

    def loss(self, network: nn.Module) -> Float[Tensor, ""] | None:
        """Return the penalty."""
        parts = [
            weight * norms.sum()
            for group in self.goal.structure.groups
            for weight, role in self._penalised
            for norms in _norms(group, network, role)
        ]
        if self.config.depth:
            beside = (one for one in self.goal.structure.layers if one.shortcut is not None)
            parts += [
                self.config.depth * network.get_parameter(one.weight).norm() for one in beside
            ]
        return torch.stack(parts).sum() if parts else None

    @property
    def _penalised(self) -> list[tuple[float, str]]:
        both = [(self.config.filters, "producer"), (self.config.channels, "consumer")]
        return [one for one in both if one[0]]

    def scores(self, network: nn.Module) -> Scores:
        """Return mean absolute weights."""
        found = []
        for group in self.goal.structure.groups:
            # What no layer reads is scored by the filters that make it.
            roles = [role for _, role in self._penalised if _has(group, role)] or ["producer"]
            means = [_mean_abs(group, network, role) for role in roles]
            found.append(torch.stack(means).amin(0))
        return found


def _has(group: ChannelGroup, role: str) -> bool:
    return any(part.role == role for part in group.slices)


def _norms(group: ChannelGroup, network: nn.Module, role: str) -> Iterator[Tensor]:
    for part in group.slices:
        if part.role == role and (weight := network.get_parameter(part.tensor)).requires_grad:
            yield torch.linalg.vector_norm(entries(weight, part), dim=1)


def _mean_abs(group: ChannelGroup, network: nn.Module, role: str) -> Tensor:
    parts = [
        entries(network.get_parameter(part.tensor).detach().double(), part).cpu()
        for part in group.slices
        if part.role == role
    ]
    return torch.cat(parts, dim=1).abs().mean(1)
