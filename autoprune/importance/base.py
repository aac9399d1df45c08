"""The contract of an importance criterion: which of a group's units to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.statistics.activations import Activations, collect_activations
from autoprune.statistics.gradients import taylor_terms
from autoprune.statistics.moments import Moments
from autoprune.statistics.propagation import propagate
from autoprune.structure.groups import ChannelGroup, Structure

Need: TypeAlias = Literal["nothing", "images", "labels", "gradients"]
"""What a criterion uses besides the weights; "gradients" are those of a loss, and need labels."""


@dataclass(frozen=True)
class Ranking:
    """The units of a group, ordered by importance.

    Attributes:
        order: unit indices, the most important first.
        errors: relative reconstruction error with w units left, w = 0 … units; None if the
            criterion does not estimate it.
        scores: scores of the units in `order`, falling, on one scale for all groups; None if the
            criterion compares only units of the same group.
        losses: expected loss at the network's output with w units left, w = 0 … units, on one scale
            for all groups (`losses.with_losses`); None if it is not known. Criteria do not set it.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    losses: tuple[float, ...] | None = None

    @classmethod
    def by(
        cls, values: Float[Tensor, " units"], scores: Float[Tensor, " units"] | None = None
    ) -> Ranking:
        """Return the ranking by falling value; among equal units the first ranks highest.

        Args:
            values: importance of the units; NaN ranks lowest.
            scores: the same on one scale for all groups, if there is one.
        """
        known = torch.where(values.isnan(), -torch.inf, values.double()).cpu()
        order = known.argsort(descending=True, stable=True)
        comparable = None if scores is None else tuple(scores.double().cpu()[order].tolist())
        return cls(tuple(order.tolist()), scores=comparable)

    def kept(self, width: int) -> tuple[int, ...]:
        """Return the units to keep at a width, in rising order."""
        return tuple(sorted(self.order[:width]))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may use: the dense network and its statistics.

    Statistics of activations and gradients are collected for all groups at once, at first use.

    Attributes:
        model: the dense network in evaluation mode.
        structure: structure of the network.
        moments: moments of the consumers' inputs, by weight name.
        samples: calibration data.
        seed: seed for all random choices.
    """

    model: nn.Module
    structure: Structure
    moments: Mapping[str, Moments]
    samples: Samples
    seed: int = 0

    @cached_property
    def activations(self) -> Mapping[str, Activations]:
        """Activity of every consumer's inputs, by weight name, for the consumers that run."""
        return collect_activations(self.model, self.structure, self.samples)

    @cached_property
    def taylor(self) -> Mapping[str, Float64[Tensor, " _units"]]:
        """First-order change of the loss for every unit, by group name."""
        terms = taylor_terms(self.model, self.structure, self.samples)
        return dict(zip(self.structure.index, terms, strict=True))

    @cached_property
    def propagated(self) -> Mapping[str, Float64[Tensor, " _channels"]]:
        """Importance of final responses at every layer's input channels, by weight name."""
        one = self.samples.first(1).inputs
        return propagate(self.model, self.structure, self.moments, one)

    def seed_of(self, group: ChannelGroup) -> int:
        """Return a seed that is different for every group."""
        return self.seed * 1_000_003 + self.structure.index[group.name]


class Importance(ABC):
    """Orders the units of every group.

    Attributes:
        name: name by which users choose the criterion.
        needs: what it uses besides weights.
        in_threads: whether `rank` may run in several threads at once, for different groups.
    """

    name: ClassVar[str] = "user's own"
    needs: ClassVar[Need] = "images"
    in_threads: ClassVar[bool] = False

    @abstractmethod
    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the ranking of one group.

        Args:
            group: the group.
            evidence: the dense network and its statistics, which must not be changed.
        """


def shares(values: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
    """Return values of units divided by their sum, so that no layer dominates."""
    return values / values.sum(-1, keepdim=True).clamp_min(1e-30)
