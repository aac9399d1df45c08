"""Structured optimal brain surgeon: one elimination gives a group's order and its error curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from autoprune.reconstruction.elimination import Elimination, Problem


@dataclass(frozen=True, eq=False)
class ObsPath:
    """An order of removal and the relative error at every width.

    Attributes:
        order: units, the last one removed first.
        errors: relative error with w units left, w = 0 … units; `errors[units]` is 0.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def obs_path(problems: Iterable[Problem], order: Sequence[int] | None = None) -> ObsPath:
    """Eliminate all units of a group, one by one; errors are summed over its consumers.

    Args:
        problems: problems of the group's consumers; given one by one they need less memory.
        order: units, the last one to remove first; by default the cheapest unit is removed next.
    """
    states = [problem.start() for problem in problems]
    removed: list[int] = []
    for unit in _cheapest_first(states) if order is None else reversed(order):
        removed.append(unit)
        for state in states:
            state.remove(unit)
    lost = torch.stack([state.errors().cpu() for state in states]).sum(0)
    # Subtracting the ridge term may make an error fall by a rounding error.
    errors = [0.0, *lost.clamp_min(0.0).cummax(0).values.tolist()]
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
