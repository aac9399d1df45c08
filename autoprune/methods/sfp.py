"""Soft filter pruning: small filters are set to zero after every epoch, and may grow again."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import favoured, filter_norms, keep_units, largest
from autoprune.training.hooks import Moment


class SoftFilterPruning(TrainingMethod):
    """Soft filter pruning for accelerating deep convolutional neural networks (He et al. 2018).

    Algorithm 1: after every epoch the filters of least Euclidean norm in each group are set to
    zero, as many as the budget removes at equal shares; all go on training. The norm of a unit is
    that of all filters that make it.

    The paper trains 200 epochs, from a trained network with a tenth of the learning rate. Costs
    nothing beside training.
    """

    name: ClassVar[str] = "sfp"

    def after_epoch(self, network: nn.Module, now: Moment) -> None:
        """Set the smallest filters to zero."""
        for group, width in zip(self.goal.structure.groups, self.widths, strict=True):
            keep_units(group, network, largest(filter_norms(group, network), width))

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of the largest filters of every group first."""
        found = []
        for group, width in zip(self.goal.structure.groups, self.widths, strict=True):
            norms = filter_norms(group, network)
            found.append(favoured(largest(norms, width), norms))
        return found
