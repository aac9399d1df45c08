"""Learning and compression in turns, tied together by an augmented Lagrangian."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autoprune.agents.config import Count, Positive
from autoprune.errors import UsageError
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.methods.units import (
    all_largest,
    all_norms,
    along,
    entries,
    favoured,
    largest,
    producers,
)
from autoprune.training.hooks import Moment


@dataclass(frozen=True)
class LearningCompressionConfig:
    """How the penalty grows.

    Attributes:
        rounds: of a learning step and a compression step.
        penalty: μ of the first round.
        growth: factor by which μ grows each round.
        most: largest μ.
    """

    rounds: Count = 30
    penalty: Positive = 1e-3
    growth: Positive = 1.1
    most: Positive = 1e4


class LearningCompression(TrainingMethod):
    """Learning-compression (Carreira-Perpiñán and Idelbayev 2018) as in Condensa (Joseph et al.).

    Minimises L(w) so that w = θ, θ being within reach of the cut. Every round learns by gradient
    steps on L(w) + μ/2 ‖w − θ − λ/μ‖² and then compresses: θ = Π(w − λ/μ), where Π keeps the
    filters of largest Euclidean norm, as many of each group as the budget leaves at equal shares; λ
    ← λ − μ (w − θ); μ grows. In the end Π(w) decides what is cut.

    Rounds, first penalty and bound are Condensa's; its growth is second-hand. It trains 10,000
    batches in the first round and 2,000 in each other one, where here all are equally long, and
    hands over the best θ of all rounds, where here it is the last w that is compressed. Costs the
    memory of the weights twice, and a pass over them in a step.
    """

    name: ClassVar[str] = "lc"
    config = LearningCompressionConfig()

    def check(self, goal: Goal) -> None:
        """Refuse a penalty that falls."""
        if self.config.growth < 1:
            raise UsageError(
                f"the method 'lc' needs a growth of 1 or more, but got {self.config.growth:g}."
            )

    def start(self, network: nn.Module) -> None:
        """Compress the network as it is."""
        self._round, self._penalty = 0, self.config.penalty
        self._multipliers = {
            name: torch.zeros_like(weight) for name, weight in self._weights(network)
        }
        with torch.no_grad():
            self._targets = self._projected(network)

    def _weights(self, network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        seen = {
            part.tensor: weight
            for group in self.goal.structure.groups
            for part, weight in producers(group, network)
        }
        yield from seen.items()

    def _projected(self, network: nn.Module) -> dict[str, Tensor]:
        """Return Π(w − λ/μ)."""
        moved = {
            name: weight.detach() - self._multipliers[name] / self._penalty
            for name, weight in self._weights(network)
        }
        for group, width in zip(self.goal.structure.groups, self.widths, strict=True):
            own = [part for part, _ in producers(group, network)]
            norms = torch.zeros(group.size, dtype=torch.float64)
            for part in own:
                norms += entries(moved[part.tensor], part).double().square().sum(1).cpu()
            for part in own:
                kept = along(largest(norms, width), part, moved[part.tensor])
                moved[part.tensor] = moved[part.tensor] * kept
        return moved

    def loss(self, network: nn.Module) -> Float[Tensor, ""] | None:
        """Return the distance of the weights from what they are to become."""
        parts = [
            (weight - self._targets[name] - self._multipliers[name] / self._penalty).square().sum()
            for name, weight in self._weights(network)
        ]
        return self._penalty / 2 * torch.stack(parts).sum() if parts else None

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Compress at the end of a round."""
        if math.floor(now.completed * self.config.rounds) > self._round:
            self._round = math.floor(now.completed * self.config.rounds)
            self._compress(network)

    def _compress(self, network: nn.Module) -> None:
        self._targets = self._projected(network)
        for name, weight in self._weights(network):
            self._multipliers[name] -= self._penalty * (weight - self._targets[name])
        self._penalty = min(self._penalty * self.config.growth, self.config.most)

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of the filters that Π keeps first."""
        norms = all_norms(self.goal.structure, network)
        return favoured(all_largest(norms, self.widths), norms)

    def state(self) -> dict[str, Any]:
        """Return θ, λ, μ and the round."""
        return {
            "targets": self._targets,
            "multipliers": self._multipliers,
            "penalty": self._penalty,
            "round": self._round,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        for name, own in self._multipliers.items():
            own.copy_(state["multipliers"][name])
            self._targets[name] = state["targets"][name].to(own)
        self._penalty, self._round = float(state["penalty"]), int(state["round"])
