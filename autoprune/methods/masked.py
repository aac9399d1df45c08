"""What methods share that remove filters for good while the others train on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from autoprune.methods.base import Scores, TrainingMethod
from autoprune.methods.units import all_norms, favoured, filter_norms, keep_units, largest
from autoprune.training.hooks import Moment


class MaskedMethod(TrainingMethod):
    """Sets the filters of least L1 norm to zero, more and more of them, and keeps them there.

    How many go follows a schedule from none to what the budget removes at equal shares.
    """

    def start(self, network: nn.Module) -> None:
        """Keep all units."""
        groups = self.goal.structure.groups
        self._kept: list[Bool[Tensor, " _units"]] = [
            torch.ones(group.size, dtype=torch.bool) for group in groups
        ]
        self._level = 0

    @abstractmethod
    def level(self, completed: float) -> int:
        """Return how many times filters have been removed at a fraction of the run."""

    @abstractmethod
    def removed(self, level: int) -> float:
        """Return the share of all filters that go which is removed at a level, from 0 to 1."""

    def after_step(self, network: nn.Module, now: Moment) -> None:
        """Remove filters if it is time; keep those that are removed at zero."""
        if (level := self.level(now.completed)) > self._level:
            self._level = level
            self._remove(network, self.removed(level))
        for group, kept in zip(self.goal.structure.groups, self._kept, strict=True):
            if not kept.all():
                keep_units(group, network, kept)

    def _remove(self, network: nn.Module, share: float) -> None:
        groups = self.goal.structure.groups
        self._kept = [
            largest(
                filter_norms(group, network, 1), group.size - round(share * (group.size - width))
            )
            for group, width in zip(groups, self.widths, strict=True)
        ]

    def scores(self, network: nn.Module) -> Scores:
        """Return the norms, those of units that are kept first."""
        return favoured(self._kept, all_norms(self.goal.structure, network, 1))

    def state(self) -> dict[str, Any]:
        """Return which units are kept."""
        return {"kept": self._kept, "level": self._level}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self._kept, self._level = list(state["kept"]), int(state["level"])
