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
from autoprune.methods.units import all_largest, all_norms, along, favoured, producers
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class GrowingRegularizationConfig:
    """How the penalty grows, and on which filters.

    Attributes:
        ceiling: largest coefficient of the penalty.
        ramp: fraction of the run at which it gets there.
        pick_at: fraction of the run at which filters are picked by norm; until then the penalty
            grows for all (GReg-2). At 0 they are picked at the beginning (GReg-1).
        common: coefficient of the penalty on all filters when they are picked.
    """

    ceiling: Positive = 1.0
    ramp: Share = 0.9
    pick_at: Share = 0.0
    common: Positive = 0.01


class GrowingRegularization(TrainingMethod):
    """Neural pruning via growing regularization (Wang et al. 2021), GReg-1 and GReg-2.

    λ W is added to the gradient of the filters that go, with a λ that grows in even steps; they are
    those of least L1 norm in every group, as many as the budget removes at equal shares. In GReg-2
    λ first grows for all filters up to a small one, and they are picked by what that leaves.

    The authors add 1e-4 every 10 iterations up to 1, and stabilise for 10,000 more (their
    repository): a ramp of ten elevenths of the run. For GReg-2 they add 1e-5 up to .01 before that,
    the first twelfth of the run: pick_at=.085. Here λ follows from the fraction of the run, so that
    short runs reach the ceiling as well. They let the penalty on filters that are not picked fall
    again, which here ends at once. Costs one pass over the weights in a step.
    """

    name: ClassVar[str] = "greg"
    config = GrowingRegularizationConfig()

    def start(self, network: nn.Module) -> None:
        """Pick the filters."""
        self._kept: list[Bool[Tensor, " _units"]] = []
        if not self.config.pick_at:
            self._pick(network)

    def _pick(self, network: nn.Module) -> None:
        self._kept = all_largest(all_norms(self.goal.structure, network, 1), self.widths)

    def after_backward(self, network: nn.Module, now: Moment) -> None:
        """Add the penalty's gradient."""
        if not self._kept and now.completed >= self.config.pick_at:
            self._pick(network)
        strength = self._strength(now.completed)
        for index, group in enumerate(self.goal.structure.groups):
            kept = self._kept[index] if self._kept else torch.zeros(group.size, dtype=torch.bool)
            for part, weight in producers(group, network):
                if weight.grad is not None:
                    gone = along(~kept, part, weight, rest=0.0)
                    weight.grad.add_(gone * weight, alpha=strength)

    def _strength(self, completed: float) -> float:
        """Return λ at a fraction of the run."""
        own = self.config
        if completed < own.pick_at:
            return float(own.common * completed / own.pick_at)
        first, span = own.common if own.pick_at else 0.0, own.ramp - own.pick_at
        share = min((completed - own.pick_at) / span, 1.0) if span > 0 else 1.0
        return float(first + share * (own.ceiling - first))

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of units that were not picked first."""
        norms = all_norms(self.goal.structure, network, 1)
        return favoured(self._kept or all_largest(norms, self.widths), norms)

    def state(self) -> dict[str, Any]:
        """Return which units are kept."""
        return {"kept": self._kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._kept = list(state["kept"])
