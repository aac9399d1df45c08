"""The contract of an importance criterion: which of a group's units to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics.activations import Activations, collect_activations
from autoprune.statistics.gradients import taylor_terms
from autoprune.statistics.moments import Moments
from autoprune.statistics.propagation import propagate
from autoprune.structure.groups import ChannelGroup, Structure

Need: TypeAlias = Literal["nothing", "images", "labels", "gradients"]
"""What a criterion looks at besides the weights; gradients are those of a loss: labels, too."""


@dataclass(frozen=True)
class Ranking:
    """The order in which a group's units are worth keeping.

    Attributes:
        order: unit indices, most worth keeping first.
        errors: relative reconstruction error with w units left, w = 0 … units; None where nothing
            estimated them.
        scores: of the units in the order of `order`, falling, on one scale for all groups; None
            where the criterion compares only units of one group.
        losses: what the network's output is expected to lose with w units left, w = 0 … units, on
            one scale for all groups; None where nobody has looked. Not the criterion's to say.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    losses: tuple[float, ...] | None = None

    @classmethod
    def by(cls, values: Tensor, scores: Tensor | None = None) -> Ranking:
        """Return the ranking by falling value; of equal units the first is kept longest.

        Args:
            values: of the units, (units,); what is no number counts as least.
            scores: the same on one scale for all groups, if there is one.
        """
        known = torch.where(values.isnan(), -torch.inf, values.double()).cpu()
        order = known.argsort(descending=True, stable=True)
        comparable = None if scores is None else tuple(scores.double().cpu()[order].tolist())
        return cls(tuple(order.tolist()), scores=comparable)

    def kept(self, width: int) -> tuple[int, ...]:
        """Return the units that stay at a width, rising."""
        return tuple(sorted(self.order[:width]))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at: the dense network and its statistics.

    What comes from images is gathered for all groups at once, when it is first asked for.

    Attributes:
        model: the dense network in evaluation mode.
        structure: its groups.
        moments: of the consumers' inputs, by weight name.
        samples: calibration data.
        seed: of all randomness.
    """

    model: nn.Module
    structure: Structure
    moments: Mapping[str, Moments]
    samples: Samples
    seed: int = 0

    @cached_property
    def activations(self) -> Mapping[str, Activations]:
        """How active every consumer's inputs are, by weight name; unseen consumers are missing."""
        return collect_activations(self.model, self.structure, self.samples)

    @cached_property
    def taylor(self) -> Mapping[str, Tensor]:
        """First-order change of the loss for every unit, (units,), by group name."""
        terms = taylor_terms(self.model, self.structure, self.samples)
        return dict(zip(self.structure.index, terms, strict=True))

    @cached_property
    def propagated(self) -> Mapping[str, Tensor]:
        """Importance of final responses at every layer's inputs, (channels,), by weight name."""
        one = self.samples.first(1).inputs
        return propagate(self.model, self.structure, self.moments, one)

    def seed_of(self, group: ChannelGroup) -> int:
        """Return a seed of the group's own."""
        return self.seed * 1_000_003 + self.structure.index[group.name]


class Importance(ABC):
    """Orders every group's units.

    Attributes:
        name: by which users choose it.
        needs: what it looks at besides weights.
    """

    name: ClassVar[str] = "user's own"
    needs: ClassVar[Need] = "images"

    @abstractmethod
    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the ranking of one group."""


def shares(values: Tensor) -> Tensor:
    """Return values of units as shares of their sum, so that no layer decides alone."""
    return values / values.sum(-1, keepdim=True).clamp_min(1e-30)
