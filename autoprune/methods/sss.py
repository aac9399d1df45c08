"""Sparse structure selection: a learnt factor for every channel, driven to exactly zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.agents.config import Amount, Share
from autoprune.methods.base import Scores
from autoprune.methods.gates import GatedMethod
from autoprune.methods.units import ranked
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class SparseStructureSelectionConfig:
    """How factors are learnt.

    Attributes:
        sparsity: γ, the weight of the sum of factors in the loss.
        momentum: μ of their accelerated proximal gradient.
    """

    sparsity: Amount = 0.01
    momentum: Share = 0.9


class SparseStructureSelection(GatedMethod):
    """Data-driven sparse structure selection for deep neural networks (SSS, Huang and Wang 2018).

    Loss + γ‖λ‖₁ over a factor λ of every channel, by the accelerated proximal gradient of section
    3.3 (APG-NAG): with the learning rate η, z = S_ηγ(λ − η ∂L/∂λ), S the soft threshold;
    v ← z − λ + μ v; λ ← z + μ v. As in the authors' repository λ is not let below 0. Channels with
    λ = 0 go without loss; the other factors are folded into the weights that read them.

    γ = .01 is the authors' for ResNet-50, momentum .9 for all. Costs one product per weight that
    reads a channel in a step.
    """

    name: ClassVar[str] = "sss"
    config = SparseStructureSelectionConfig()

    @property
    def least_score(self) -> float:
        """Factors above zero stay."""
        return 0.0

    def start(self, network: nn.Module) -> None:
        """Set all factors to one."""
        super().start(network)
        self._velocity = {name: torch.zeros_like(gate) for name, gate in self.gates.items()}

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Take a proximal step of the factors."""
        for name, gate in self.gates.items():
            if gate.grad is not None:
                value, self._velocity[name] = accelerated_step(
                    gate, self._velocity[name], now.rate, self.config
                )
                gate.copy_(value)
                gate.grad = None

    def scores(self, network: nn.Module) -> Scores:
        """Return the factors; groups without any are cut last, by the norms of filters."""
        learnt = {name: gate.detach().double().cpu() for name, gate in self.gates.items()}
        return ranked(learnt, self.goal.structure, network)

    def state(self) -> dict[str, Any]:
        """Return the factors and their velocities."""
        return {**super().state(), "velocity": self._velocity}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        super().load_state(state)
        self._velocity = {
            name: value.to(self.gates[name].device) for name, value in state["velocity"].items()
        }


def accelerated_step(
    gate: Tensor, velocity: Tensor, rate: float, config: SparseStructureSelectionConfig
) -> tuple[Tensor, Tensor]:
    """Return the factors and their velocity after one step (section 3.3, equations 9 to 11)."""
    assert gate.grad is not None
    forward = gate - rate * gate.grad
    shrunk = forward.sign() * (forward.abs() - rate * config.sparsity).clamp_min(0)
    moved = shrunk - gate + config.momentum * velocity
    return (shrunk + config.momentum * moved).clamp_min(0), moved
