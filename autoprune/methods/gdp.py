"""Global dynamic pruning: a mask over all channels that is drawn again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autoprune.agents.config import Count, Share
from autoprune.importance.base import shares
from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import (
    Reweighted,
    all_largest,
    all_norms,
    along,
    entries,
    favoured,
    filter_norms,
    readers,
)
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class GlobalDynamicPruningConfig:
    """How long the mask is open.

    Attributes:
        interval: steps between two masks.
        fixed_at: fraction of the run from which on the mask stays.
    """

    interval: Count = 50
    fixed_at: Share = 0.5


class GlobalDynamicPruning(TrainingMethod):
    """Accelerating convolutional networks via global and dynamic filter pruning (Lin et al. 2018).

    The network runs with masked weights W ⊙ m, but all weights take the gradient of that, so that
    masked channels can return. Every few steps m is drawn again: by the first-order saliency
    |Σ ∂L/∂W ⊙ W| of every channel, normalised within its group, one threshold for all groups leaves
    what the budget allows. Then m is fixed, and the rest trains on.

    W is here what layers have for a channel that they read, where the paper has the filter that
    makes it: in front of a BN the scale of a filter does not count, and its saliency is zero. The
    formulas are second-hand; the interval and the fraction are ours. Costs one product per weight
    that reads a channel in a step.
    """

    name: ClassVar[str] = "gdp"
    config = GlobalDynamicPruningConfig()

    def start(self, network: nn.Module) -> None:
        """Keep all units; until saliency is measured, norms of filters stand in for it."""
        groups = self.goal.structure.groups
        self._kept: list[Bool[Tensor, " _units"]] = [
            torch.ones(group.size, dtype=torch.bool) for group in groups
        ]
        self._saliency = all_norms(self.goal.structure, network)
        self._drawn = False

    def called(self, network: nn.Module) -> nn.Module:
        """Return the network with masked weights, whose gradients reach all weights."""
        return Reweighted(network, self._masked)

    def _masked(self, network: nn.Module) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for group, kept in zip(self.goal.structure.groups, self._kept, strict=True):
            for part, weight in readers(group, network):
                own = found.get(part.tensor, weight)
                found[part.tensor] = own + (own * along(kept, part, weight) - own).detach()
        return found

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Measure saliency and draw the mask, if it is time and while it is open."""
        is_open = now.completed < self.config.fixed_at
        if not (now.step % self.config.interval == 0 if is_open else not self._drawn):
            return
        for index, group in enumerate(self.goal.structure.groups):
            total = torch.zeros(group.size, dtype=torch.float64)
            for part, weight in readers(group, network):
                if weight.grad is not None:
                    change = entries(weight.grad * weight, part)
                    total += change.sum(1).double().cpu()
            is_read = any(True for _ in readers(group, network))
            self._saliency[index] = total.abs() if is_read else filter_norms(group, network)
        self._draw()

    def _draw(self) -> None:
        assert self.goal.below_threshold is not None  # the method needs a budget
        saliency = [shares(own) for own in self._saliency]
        widths = self.goal.below_threshold(saliency)
        self._kept = all_largest(saliency, widths)
        self._drawn = True

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Set masked weights to zero once the mask is fixed."""
        if now.completed >= self.config.fixed_at:
            self._clear(network)

    def finish(self, network: nn.Module) -> nn.Module:
        """Set masked weights to zero."""
        self._clear(network)
        return network

    def _clear(self, network: nn.Module) -> None:
        with torch.no_grad():
            for group, kept in zip(self.goal.structure.groups, self._kept, strict=True):
                for part, weight in readers(group, network):
                    weight.mul_(along(kept, part, weight))

    def scores(self, network: nn.Module) -> Scores:
        """Return saliency, that of units within the mask first."""
        return favoured(self._kept, [shares(own) for own in self._saliency])

    def state(self) -> dict[str, Any]:
        """Return mask and saliency."""
        return {"kept": self._kept, "saliency": self._saliency, "drawn": self._drawn}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._kept, self._saliency = list(state["kept"]), list(state["saliency"])
        self._drawn = bool(state["drawn"])
