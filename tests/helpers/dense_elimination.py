"""Optimal brain surgery as its equations say: the reference of the blocked elimination."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autoprune.reconstruction.obs_problem import ObsProblem


class DenseElimination:
    """The state of one consumer; every removal touches all of W and H⁻¹ (OBC, eq. 3 to 5)."""

    def __init__(self, problem: ObsProblem) -> None:
        out, self._units, self._b = problem.weight.shape
        self._dense = problem.weight.double().reshape(out, -1)
        self._weight, self._inverse = self._dense.clone(), problem.inverse.clone()
        self._ridge = problem.ridge
        self._energy = problem.energy if problem.energy > 0 else math.inf
        self._total = 0.0

    def scores(self, left: Sequence[int]) -> Tensor:
        """Return the relative error increase of removing each of the units that are left."""
        increases = []
        for unit in left:
            own = self._columns(unit)
            rows = self._weight[:, own].T
            increases.append((torch.linalg.solve(self._inverse[own, own], rows) * rows).sum())
        return torch.stack(increases) / self._energy

    def remove(self, unit: int) -> float:
        """Remove one unit; return the relative error since the start."""
        own = self._columns(unit)
        rows = self._inverse[own]
        step = torch.linalg.solve(rows[:, own], rows)
        lost = self._weight[:, own].clone()
        self._total += float((lost * torch.linalg.solve(rows[:, own], lost.T).T).sum())
        self._weight -= lost @ step
        self._inverse -= rows.T @ step
        self._weight[:, own] = 0.0
        ridge_part = self._ridge * float((self._weight - self._dense).square().sum())
        return max(self._total - ridge_part, 0.0) / self._energy

    def _columns(self, unit: int) -> slice:
        return slice(unit * self._b, (unit + 1) * self._b)


def check_path(
    problems: Sequence[ObsProblem], order: Sequence[int], errors: Sequence[float], tie: float
) -> None:
    """Check that every unit removed is the cheapest, up to ties, and the errors at all widths.

    Args:
        problems: of the group's consumers.
        order: units, the last one removed first.
        errors: relative error with w units left, w = 0 … units.
        tie: relative difference of scores, and absolute one of errors, that is none.
    """
    states = [DenseElimination(problem) for problem in problems]
    left, highest = list(range(len(order))), 0.0
    assert sorted(order) == left
    assert errors[len(order)] == 0.0
    for unit in reversed(order):
        scores = torch.stack([state.scores(left) for state in states]).sum(0)
        cheapest = float(scores.min())
        assert float(scores[left.index(unit)]) <= cheapest + tie * abs(cheapest) + 1e-12
        left.remove(unit)
        highest = max(highest, sum(state.remove(unit) for state in states))
        assert abs(errors[len(left)] - highest) <= tie
