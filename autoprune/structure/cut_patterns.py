"""Which units each round of the numerical verification keeps.

A forward pass can assume a width in many ways, and each assumption happens to hold for some cuts: a
split at a constant when the lowest units are kept, a split at a share of the width when units go
evenly, a stride of two when neighbours go in pairs. So every group is cut in several patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.structure.groups import ChannelGroup

Kept = dict[str, list[int]]
"""Units that are kept, by group name; groups that are missing stay whole."""
_Choose = Callable[[np.random.Generator, int, int], list[int]]


def _lowest(_: np.random.Generator, size: int, count: int) -> list[int]:
    return list(range(count))


def _highest(_: np.random.Generator, size: int, count: int) -> list[int]:
    return list(range(size - count, size))


def _scattered(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return sorted(rng.permutation(size)[:count].tolist())


# Which units are kept, and which share of the group they are: from one unit to all but one.
PATTERNS: Sequence[tuple[_Choose, float]] = (
    (_scattered, 1 / 2),
    (_lowest, 1 / 2),
    (_highest, 1 / 4),
    (_highest, 3 / 4),
    (_scattered, 3 / 4),
    (_scattered, 0),
    (_scattered, 1),
)


def cut_patterns(groups: Sequence[ChannelGroup]) -> list[Kept]:
    """Return the units to keep of all groups, one dictionary per round of the verification.

    Each group goes through all patterns in its own random order. Otherwise the widths would stay in
    proportion, and one width could be mistaken for another or for a share of it.
    """
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(PATTERNS)) for _ in groups]
    return [
        {
            g.name: _keep(rng, g.size, *PATTERNS[order[i]])
            for g, order in zip(groups, orders, strict=True)
        }
        for i in range(len(PATTERNS))
    ]


def _keep(rng: np.random.Generator, size: int, choose: _Choose, share: float) -> list[int]:
    # An odd number, so that no split into equal parts comes out even.
    count = min(int(size * share) | 1, size - 1)
    return choose(rng, size, count)
