"""Single weights become zero, gradually while the network trains or at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from autoprune.agents.config import BelowOne, Count, Share
from autoprune.errors import UsageError
from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import ranked
from autoprune.sparsity.choices import MAGNITUDE, UNSTRUCTURED, is_gradual
from autoprune.sparsity.criteria import (
    Wanted,
    by_magnitude,
    find_criterion,
    take_better_statistics,
)
from autoprune.sparsity.layout import Sparse
from autoprune.sparsity.patterns import Pattern, find_pattern
from autoprune.training.hooks import Moment
from autoprune.training.kept_zeros import ZeroMasks, keep_zeros, zero_masks


@dataclass(frozen=True)
class FineGrainedConfig:
    """Which weights go, and when.

    Attributes:
        amount: share of the weights that becomes zero; of N:M it follows from the pattern.
        pattern: "unstructured", N:M or ROWSxCOLUMNS.
        criterion: what decides which.
        end: fraction of the run at which all of them are gone, where they go gradually.
        removals: how often weights go until then.
    """

    amount: BelowOne = 0.5
    pattern: str = UNSTRUCTURED
    criterion: str = MAGNITUDE
    end: Share = 0.8
    removals: Count = 100

    def __post_init__(self) -> None:
        find_pattern(self.pattern)
        find_criterion(self.criterion)


class FineGrained(TrainingMethod):
    """To prune, or not to prune (AGP, Zhu and Gupta 2017), on single weights.

    In training the smallest weights of every layer go on the cubic schedule of equation 1, s_t =
    s_f (1 − (1 − t)³), for good, while the others train on; other criteria and N:M patterns choose
    all zeros at once, for training afterwards. No channel goes.

    The paper removes every 100 to 1,000 steps; here it is a hundred times over the schedule. Costs
    a pass over the weights in a step.
    """

    name: ClassVar[str] = "sparsify"
    config = FineGrainedConfig()
    is_repaired, needs_training = False, False  # a repair would fill the zeros

    @property
    def is_gradual(self) -> bool:
        """Whether zeros come one after the other, and not all at once."""
        return is_gradual(self.config.criterion, self.config.pattern)

    @property
    def _pattern(self) -> Pattern:
        return find_pattern(self.config.pattern)

    @property
    def least_score(self) -> float:
        """Every unit stays."""
        return 0.0

    def _wanted(self, amount: float) -> Wanted:
        goal = self.goal
        return Wanted(goal.structure, self._pattern, amount, goal.samples, goal.seed)

    def _weights(self, network: nn.Module) -> dict[str, Sparse]:
        return self._wanted(self.config.amount).weights(network)

    def start(self, network: nn.Module) -> None:
        """Nothing is zero yet.

        Raises:
            UsageError: the pattern fits no weight that training may change.
        """
        if not self._weights(network):
            raise UsageError(
                f"no weight that may change can be divided into {self.config.pattern!r}; try "
                f"{UNSTRUCTURED!r}."
            )
        self._level = 0
        self._masks: ZeroMasks = {}

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Let more weights go if it is time; keep those that are gone at zero."""
        if not self.is_gradual:
            return
        share = now.completed / self.config.end if self.config.end else 1.0
        level = math.floor(min(share, 1.0) * self.config.removals)
        keep_zeros(network, self._masks)  # they stay the smallest
        if level > self._level:
            self._level = level
            left = 1 - level / self.config.removals
            by_magnitude(network, self._wanted(self.config.amount * (1 - left**3)))
            self._masks = zero_masks(network, self._weights(network))

    def finish(self, network: nn.Module) -> nn.Module:
        """Return the network with all zeros, however many there are in training yet."""
        find_criterion(self.config.criterion)(network, self._wanted(self.config.amount))
        if not self._level:  # training adapts the statistics itself
            take_better_statistics(network, self.goal.network, self._wanted(self.config.amount))
        return network

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms: nothing was learnt of channels."""
        return ranked({}, self.goal.structure, network)

    def figures(self, network: nn.Module) -> dict[str, Any]:
        """Return how many weights are zero, and how many MACs that leaves."""
        own, layers = self._weights(network), self.goal.structure.layers
        zeros = sum(int((one.weight == 0).sum()) for one in own.values())
        left = {name: float((one.weight != 0).double().mean()) for name, one in own.items()}
        sizes = self.goal.structure.shapes
        macs = {one.weight: one.positions * math.prod(sizes[one.weight]) for one in layers}
        return {
            "sparsity": {
                "weights": sum(one.weight.numel() for one in own.values()),
                "zeros": zeros,
                "parameters": sum(one.numel() for one in network.parameters()),
                "macs": sum(macs.values()),
                "nonzero_macs": round(sum(left.get(name, 1.0) * n for name, n in macs.items())),
                "sparse_weights": [*own],
                "dense_layers": [one.name for one in layers if one.weight not in own],
            }
        }

    def state(self) -> dict[str, Any]:
        """Return which weights are zero, and how far the schedule is."""
        return {"level": self._level, "masks": self._masks}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._level, self._masks = int(state["level"]), dict(state["masks"])
