"""Growing regularization: the weight decay of the filters that go rises until they vanish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autoprune.agents.config import Positive, Share
from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import along, favoured, filter_norms, largest, producers
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class GrowingRegularizationConfig:
    """How the penalty grows, and on which filters.

    Attributes:
        ceiling: largest coefficient of the penalty.
        ramp: fraction of the run in which it rises from 0 to that.
        pick_at: fraction of the run at which filters are picked by norm; until then the penalty
            grows for all (GReg-2). At 0 they are picked at the beginning (GReg-1).
    """

    ceiling: Positive = 1.0
    ramp: Share = 0.9
    pick_at: Share = 0.0


class GrowingRegularization(TrainingMethod):
    """Neural pruning via growing regularization (Wang et al. 2021), GReg-1 and GReg-2.

    λ W is added to the gradient of the filters that go, with a λ that grows in even steps; they are
    those of least L1 norm in every group, as many as the budget removes at equal shares.

    The authors add 1e-4 every 10 iterations up to 1, and stabilise for 10,000 more (their
    repository): a ramp of ten elevenths of the run. Here λ follows from the fraction of the run, so
    that short runs reach the ceiling as well. Costs one pass over the weights in a step.
    """

    name: ClassVar[str] = "greg"
    config = GrowingRegularizationConfig()

    def start(self, network: nn.Module) -> None:
        """Pick the filters."""
        self._kept: list[Bool[Tensor, " _units"]] = []
        if not self.config.pick_at:
            self._pick(network)

    def _pick(self, network: nn.Module) -> None:
        self._kept = [
            largest(filter_norms(group, network, 1), width)
            for group, width in zip(self.goal.structure.groups, self.widths, strict=True)
        ]

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Add the penalty's gradient."""
        if not self._kept and now.completed >= self.config.pick_at:
            self._pick(network)
        ramp = now.completed / self.config.ramp if self.config.ramp else 1.0
        strength = self.config.ceiling * min(ramp, 1.0)
        for index, group in enumerate(self.goal.structure.groups):
            kept = self._kept[index] if self._kept else torch.zeros(group.size, dtype=torch.bool)
            for part, weight in producers(group, network):
                if weight.grad is not None:
                    gone = along(~kept, part, weight, rest=0.0)
                    weight.grad.add_(gone * weight, alpha=strength)

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of units that were not picked first."""
        found = []
        for index, (group, width) in enumerate(
            zip(self.goal.structure.groups, self.widths, strict=True)
        ):
            norms = filter_norms(group, network, 1)
            kept = self._kept[index] if self._kept else largest(norms, width)
            found.append(favoured(kept, norms))
        return found

    def state(self) -> dict[str, Any]:
        """Return which units are kept."""
        return {"kept": self._kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._kept = list(state["kept"])
