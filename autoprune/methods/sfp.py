"""Soft filter pruning: small filters are set to zero after every epoch, and may grow again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import (
    SMALLEST_NORM,
    all_largest,
    all_norms,
    along,
    favoured,
    keep_largest,
    producers,
    unit_norms,
)
from autoprune.training.hooks import Moment

log = logging.getLogger(__name__)


class SoftFilterPruning(TrainingMethod):
    """Soft filter pruning for accelerating deep convolutional neural networks (He et al. 2018).

    Algorithm 1: after every epoch the filters of least Euclidean norm in each group are set to
    zero, as many as the budget removes at equal shares; all go on training. The norm of a unit is
    that of all filters that make it. The cut takes those that are smallest in the end.

    A BN divides by the deviation of what it reads, and so multiplies the gradients of a filter that
    is zero by one over the root of ε: it would come back larger than any that stayed. Here no
    gradient of a filter that was zero is larger than the mean of those that stayed in its group.

    The paper trains 200 epochs, from a trained network with a tenth of the learning rate. Costs
    nothing beside training.
    """

    name: ClassVar[str] = "sfp"

    def start(self, network: nn.Module) -> None:
        """Nothing was set to zero yet."""
        self._kept: list[Bool[Tensor, " _units"]] = []

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Bound the gradients of filters that were set to zero."""
        if not self._kept:  # no pass is over
            return
        for group, kept in zip(self.goal.structure.groups, self._kept, strict=True):
            if kept.all() or not kept.any():  # of whole branches nothing stays
                continue
            slopes = [
                (part, weight.grad)
                for part, weight in producers(group, network)
                if weight.grad is not None
            ]
            norms = unit_norms(slopes, group.size)
            bound = norms[kept].mean() / norms.clamp_min(SMALLEST_NORM)
            factors = torch.where(kept, 1.0, bound.clamp_max(1.0))
            for part, slope in slopes:
                slope.mul_(along(factors, part, slope))

    def after_epoch(self, network: nn.Module, now: Moment) -> None:
        """Set the smallest filters to zero."""
        self._kept = keep_largest(self.goal.structure, network, self.widths)

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of the largest filters of every group first."""
        if not self._kept:
            log.warning(
                "the method 'sfp' sets filters to zero after every pass over the samples, and this "
                "training made none: it did what training alone does; give more epochs"
            )
        norms = all_norms(self.goal.structure, network)
        return favoured(all_largest(norms, self.widths), norms)

    def state(self) -> dict[str, Any]:
        """Return which filters were not set to zero last."""
        return {"kept": self._kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._kept = list(state["kept"])
