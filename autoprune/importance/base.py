"""The contract of an importance criterion: which of a group's units to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from autoprune.statistics.moments import Moments
from autoprune.structure.groups import ChannelGroup, Structure


@dataclass(frozen=True)
class Ranking:
    """The order in which a group's units are worth keeping.

    Attributes:
        order: unit indices, most worth keeping first.
        errors: relative reconstruction error with w units left, w = 0 … units; None where the
            criterion estimates none.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...] | None = None

    def kept(self, width: int) -> tuple[int, ...]:
        """Return the units that stay at a width, rising."""
        return tuple(sorted(self.order[:width]))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a criterion may look at: the dense network and its statistics."""

    model: nn.Module
    structure: Structure
    moments: Mapping[str, Moments]


class Importance(ABC):
    """Orders every group's units."""

    name: ClassVar[str]

    @abstractmethod
    def rank(self, group: ChannelGroup, evidence: Evidence) -> Ranking:
        """Return the ranking of one group."""
