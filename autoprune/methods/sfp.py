"""Soft filter pruning: small filters are set to zero after every epoch, and may grow again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import all_largest, all_norms, favoured, keep_largest
from autoprune.training.hooks import Moment

log = logging.getLogger(__name__)


class SoftFilterPruning(TrainingMethod):
    """Soft filter pruning for accelerating deep convolutional neural networks (He et al. 2018).

    Algorithm 1: after every epoch the filters of least Euclidean norm in each group are set to
    zero, as many as the budget removes at equal shares; all go on training. The norm of a unit is
    that of all filters that make it. In the end they are set to zero once more, and go.

    The paper trains 200 epochs, from a trained network with a tenth of the learning rate. Costs
    nothing beside training.
    """

    name: ClassVar[str] = "sfp"

    def start(self, network: nn.Module) -> None:
        """Nothing was set to zero yet."""
        self._times = 0

    def after_epoch(self, network: nn.Module, now: Moment) -> None:
        """Set the smallest filters to zero."""
        keep_largest(self.goal.structure, network, self.widths)
        self._times += 1

    def merge(self, network: nn.Module) -> nn.Module:
        """Set the smallest filters to zero for the last time."""
        if not self._times:
            log.warning(
                "the method 'sfp' sets filters to zero after every pass over the samples, and this "
                "training made none: it did what training alone does; give more epochs"
            )
        with torch.no_grad():
            keep_largest(self.goal.structure, network, self.widths)
        return network

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of the largest filters of every group first."""
        norms = all_norms(self.goal.structure, network)
        return favoured(all_largest(norms, self.widths), norms)

    def state(self) -> dict[str, Any]:
        """Return how often filters were set to zero."""
        return {"times": self._times}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._times = int(state["times"])
