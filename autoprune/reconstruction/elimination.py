"""What an elimination asks of a group's consumers: what removing each unit costs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Problem(ABC):
    """One consumer of a group: the error that removing units causes at its output."""

    @abstractmethod
    def start(self) -> Elimination:
        """Return the state with all units."""


class Elimination(ABC):
    """The state of one consumer while all units are removed, one by one."""

    @abstractmethod
    def scores(self) -> Float64[Tensor, " units"]:
        """Return the relative error increase of removing each unit next; any of those removed."""

    @abstractmethod
    def remove(self, unit: int) -> None:
        """Remove one unit."""

    @abstractmethod
    def errors(self) -> Float64[Tensor, " removed"]:
        """Return the relative error after every removal so far."""


@dataclass(frozen=True, eq=False)
class AdditiveProblem(Problem):
    """A consumer whose inputs are assumed independent: errors add up.

    Attributes:
        shares: relative error of removing each unit.
    """

    shares: Float[Tensor, " units"]

    def start(self) -> Elimination:
        """Return the state with all units."""
        return _Addition(self.shares.double())


class _Addition(Elimination):
    def __init__(self, shares: Float64[Tensor, " units"]) -> None:
        self._shares = shares
        self._removed: list[int] = []

    def scores(self) -> Float64[Tensor, " units"]:
        return self._shares

    def remove(self, unit: int) -> None:
        self._removed.append(unit)

    def errors(self) -> Float64[Tensor, " removed"]:
        return self._shares[torch.tensor(self._removed, dtype=torch.long)].cumsum(0)
