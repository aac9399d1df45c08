"""Structured optimal brain surgeon: one elimination gives a group's order and its error curve.

With H = G + λI over a consumer's inputs, removing the columns B of one unit raises the output error
by tr(W_B (H⁻¹_BB)⁻¹ W_Bᵀ). Remove the cheapest, update W −= W_B (H⁻¹_BB)⁻¹ H⁻¹_B,: and
H⁻¹ −= H⁻¹_:,B (H⁻¹_BB)⁻¹ H⁻¹_B,:, and repeat (Frantar et al. 2022, OBC, eq. 3 to 5, with one
structure for all rows as in Kurtic et al. 2023, ZipLM). Only the group's columns take part, so that
a consumer of several groups needs no more than its block of H⁻¹.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    """The state of one consumer while units are removed."""

    @abstractmethod
    def scores(self) -> Float64[Tensor, " units"]:
        """Return the relative error increase of removing each unit next."""

    @abstractmethod
    def remove(self, unit: int) -> float:
        """Remove one unit; return the relative error since the start."""


@dataclass(frozen=True, eq=False)
class AdditiveProblem(Problem):
    """A consumer whose inputs are assumed independent: errors add up.

    Attributes:
        errors: relative error of removing each unit.
    """

    errors: Float[Tensor, " units"]

    def start(self) -> Elimination:
        """Return the state with all units."""
        return _Addition(self.errors.double())


class _Addition(Elimination):
    def __init__(self, errors: Float64[Tensor, " units"]) -> None:
        self._errors = errors
        self._total = 0.0

    def scores(self) -> Float64[Tensor, " units"]:
        return self._errors

    def remove(self, unit: int) -> float:
        self._total += float(self._errors[unit])
        return self._total


@dataclass(frozen=True, eq=False)
class ObsProblem(Problem):
    """A consumer with known input covariances.

    Attributes:
        weight: W over the group's columns, by unit; rows scaled by the BN that follows the layer.
        inverse: H⁻¹ over the same columns.
        ridge: λ in H.
        energy: tr(W G Wᵀ) of the whole consumer, by which its errors are divided.
    """

    weight: Float[Tensor, "outputs units entries"]
    inverse: Float64[Tensor, "units*entries units*entries"]
    ridge: float
    energy: float

    def start(self) -> Elimination:
        """Return the state with all units."""
        return _ObsElimination(self)


@dataclass(frozen=True, eq=False)
class ObsPath:
    """An order of removal and the relative error at every width.

    Attributes:
        order: units, the last one removed first.
        errors: relative error with w units left, w = 0 … units; `errors[units]` is 0.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def obs_path(problems: Sequence[Problem], order: Sequence[int] | None = None) -> ObsPath:
    """Eliminate all units of a group, one by one; errors are summed over its consumers.

    Args:
        problems: problems of the group's consumers.
        order: units, the last one to remove first; by default the cheapest unit is removed next.
    """
    states = [problem.start() for problem in problems]
    removed: list[int] = []
    errors = [0.0]
    for unit in _cheapest_first(states) if order is None else reversed(order):
        removed.append(unit)
        lost = sum(state.remove(unit) for state in states)
        # Subtracting the ridge term may make an error fall by a rounding error.
        errors.append(max(lost, errors[-1]))
    return ObsPath(tuple(reversed(removed)), tuple(reversed(errors)))


def _cheapest_first(states: Sequence[Elimination]) -> Iterator[int]:
    """Yield the cheapest unit, which the caller removes before asking for the next one."""
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
        # A consumer with constant inputs loses nothing.
        self._energy = problem.energy if problem.energy > 0 else math.inf
        self._total = 0.0
        self._gone = torch.zeros(self._units, dtype=torch.bool, device=self._weight.device)

    def scores(self) -> Float64[Tensor, " units"]:
        b = self._b
        rows = self._weight.reshape(-1, self._units, b).transpose(0, 1)
        increase = torch.zeros(self._units, dtype=torch.float64, device=rows.device)
        left = ~self._gone
        solved = torch.linalg.solve(self._blocks()[left], rows[left].transpose(1, 2))
        increase[left] = (solved * rows[left].transpose(1, 2)).sum((1, 2))
        return increase / self._energy

    def _blocks(self) -> Float64[Tensor, "units entries entries"]:
        """Return the diagonal blocks of H⁻¹."""
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
        # The sum is tr(ΔHΔᵀ), of which the ridge term is not an error of the output.
        ridge_part = self._ridge * float((self._weight - self._dense).square().sum())
        return max(self._total - ridge_part, 0.0) / self._energy
