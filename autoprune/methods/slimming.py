"""Network Slimming: an L1 penalty on BN scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from autoprune.agents.config import Amount
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.methods.units import batchnorm_scales, entries, ranked, scales
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class SlimmingConfig:
    """How strongly BN scales are penalised.

    Attributes:
        sparsity: λ, the weight of the sum of |γ| in the loss.
    """

    sparsity: Amount = 1e-4


class Slimming(TrainingMethod):
    """Learning efficient convolutional networks through network slimming (Liu et al. 2017).

    Equation 1: loss + λ Σ|γ| over the scales of BNs, by sub-gradient: λ sign(γ) is added to the
    gradient of every γ (section 3.2). One threshold on |γ| then cuts all groups. The score of a
    unit is the mean |γ| of the BNs that it passes.

    λ = 1e-4 is the authors' for VGG; they take 1e-5 for ResNets and DenseNets (their repository).
    They start with γ = 0.5; here a trained network keeps its scales. Costs nothing beside
    training. Groups without a BN are cut last, by
    the norms of their filters.
    """

    name: ClassVar[str] = "slimming"
    config: Any = SlimmingConfig()

    def check(self, goal: Goal) -> None:
        """Refuse a network without BN scales that may change."""
        structure = goal.structure
        names = {
            part.tensor
            for group in structure.groups
            for part in batchnorm_scales(group, goal.network)
        }
        if names <= structure.untouched:
            raise UsageError(
                f"the method {self.title!r} learns from BN scales, but no channels that may go "
                "pass a BN whose scales may change: choose another method, such as 'group_lasso'."
            )

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Add the sub-gradient."""
        for scale in self._scales(network).values():
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=self.config.sparsity)

    def scores(self, network: nn.Module) -> Scores:
        """Return mean |γ|; groups without BN are cut last, by the norms of filters."""
        learnt = {}
        for group in self.goal.structure.groups:
            parts = [
                entries(scale.detach().double().abs(), s).mean(1).cpu()
                for s, scale in scales(group, network)
            ]
            if parts:
                learnt[group.name] = torch.stack(parts).mean(0)
        return ranked(learnt, self.goal.structure, network)

    def _scales(self, network: nn.Module) -> Mapping[str, nn.Parameter]:
        """Return every scale by its name: a BN behind a concatenation belongs to several groups."""
        return {
            part.tensor: scale
            for group in self.goal.structure.groups
            for part, scale in scales(group, network)
        }
