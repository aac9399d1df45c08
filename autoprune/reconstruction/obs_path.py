"""Structured optimal brain surgeon: one elimination orders a group's units and gives every error.

With H = G + λI over a consumer's inputs, removing the columns B of one unit raises the output error
by tr(W_B (H⁻¹_BB)⁻¹ W_Bᵀ). Remove the cheapest, update W −= W_B (H⁻¹_BB)⁻¹ H⁻¹_B,: and
H⁻¹ −= H⁻¹_:,B (H⁻¹_BB)⁻¹ H⁻¹_B,:, and repeat (Frantar et al. 2022, OBC, eq. 3 to 5, with one
structure for all rows as in Kurtic et al. 2023, ZipLM). Only the group's own columns take part, so
that a consumer of several groups needs no more than its block of H⁻¹.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Problem(ABC):
    """One consumer of a group: what the loss of units costs it."""

    @abstractmethod
    def start(self) -> Elimination:
        """Return the state before any unit went."""


class Elimination(ABC):
    """The state of one consumer while units go."""

    @abstractmethod
    def scores(self) -> Tensor:
        """Return the relative error increase of removing each unit next, (units,)."""

    @abstractmethod
    def remove(self, unit: int) -> float:
        """Remove one unit; return the relative error since the start."""


@dataclass(frozen=True, eq=False)
class AdditiveProblem(Problem):
    """A consumer whose inputs are taken as independent: errors add up.

    Attributes:
        errors: relative error of losing each unit, (units,).
    """

    errors: Tensor

    def start(self) -> Elimination:
        """Return the state before any unit went."""
        return _Addition(self.errors.double())


class _Addition(Elimination):
    def __init__(self, errors: Tensor) -> None:
        self._errors = errors
        self._total = 0.0

    def scores(self) -> Tensor:
        return self._errors

    def remove(self, unit: int) -> float:
        self._total += float(self._errors[unit])
        return self._total


@dataclass(frozen=True, eq=False)
class ObsProblem(Problem):
    """A consumer with known input covariances.

    Attributes:
        weight: W over the group's columns, (out, units, b): b inputs per unit, rows scaled by what
            follows the layer.
        inverse: H⁻¹ over the same columns, (units x b, units x b), float64.
        ridge: λ in H.
        energy: tr(W G Wᵀ) of the whole consumer, by which its errors are divided.
    """

    weight: Tensor
    inverse: Tensor
    ridge: float
    energy: float

    def start(self) -> Elimination:
        """Return the state before any unit went."""
        return _ObsElimination(self)


@dataclass(frozen=True, eq=False)
class ObsPath:
    """Units from last to go to first to go, and the relative error at every width.

    `errors[w]` is the error with w units left, w = 0 … units; errors[units] = 0.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def obs_path(problems: Sequence[Problem], order: Sequence[int] | None = None) -> ObsPath:
    """Eliminate all units of a group; the errors of its consumers are summed.

    Args:
        problems: of its consumers.
        order: units from last to go to first to go; by default the cheapest goes next.
    """
    states = [problem.start() for problem in problems]
    removed: list[int] = []
    errors = [0.0]
    for unit in _cheapest_first(states) if order is None else reversed(order):
        removed.append(unit)
        lost = sum(state.remove(unit) for state in states)
        # Without the ridge's share an error may fall by a rounding error's worth.
        errors.append(max(lost, errors[-1]))
    return ObsPath(tuple(reversed(removed)), tuple(reversed(errors)))


def _cheapest_first(states: Sequence[Elimination]) -> Iterator[int]:
    """Yield the unit to remove next; it must be gone when the one after it is asked for."""
    alive = torch.ones(len(states[0].scores()), dtype=torch.bool)
    while alive.any():
        scores = torch.stack([state.scores().cpu() for state in states]).sum(0)
        scores[~alive] = torch.inf
        unit = int(scores.argmin())
        alive[unit] = False
        yield unit


class _ObsElimination(Elimination):
    def __init__(self, problem: ObsProblem) -> None:
        out, self._units, self._b = problem.weight.shape
        self._dense = problem.weight.double().reshape(out, -1)
        self._weight = self._dense.clone()
        self._inverse = problem.inverse.clone()
        self._ridge = problem.ridge
        # A consumer whose inputs never vary loses nothing.
        self._energy = problem.energy if problem.energy > 0 else math.inf
        self._total = 0.0
        self._gone = torch.zeros(self._units, dtype=torch.bool, device=self._weight.device)

    def scores(self) -> Tensor:
        b = self._b
        rows = self._weight.reshape(-1, self._units, b).transpose(0, 1)
        increase = torch.zeros(self._units, dtype=torch.float64, device=rows.device)
        left = ~self._gone
        solved = torch.linalg.solve(self._blocks()[left], rows[left].transpose(1, 2))
        increase[left] = (solved * rows[left].transpose(1, 2)).sum((1, 2))
        return increase / self._energy

    def _blocks(self) -> Tensor:
        grid = self._inverse.reshape(self._units, self._b, self._units, self._b)
        return grid.diagonal(dim1=0, dim2=2).permute(2, 0, 1)

    def remove(self, unit: int) -> float:
        block = slice(unit * self._b, (unit + 1) * self._b)
        rows = self._inverse[block]
        step = torch.linalg.solve(rows[:, block], rows)
        lost = self._weight[:, block].clone()
        self._total += float((lost * torch.linalg.solve(rows[:, block], lost.T).T).sum())
        self._weight -= lost @ step
        self._inverse -= rows.T @ step
        self._weight[:, block] = 0.0
        self._gone[unit] = True
        # What was summed up is tr(ΔHΔᵀ); the ridge term is no error of the output.
        ridge_part = self._ridge * float((self._weight - self._dense).square().sum())
        return max(self._total - ridge_part, 0.0) / self._energy
