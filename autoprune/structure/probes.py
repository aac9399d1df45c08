"""Which units to keep where the structure of a network is tested: several ways for every group.

A forward pass may assume a width in many ways, and each comes out right for some of them: a split
at a constant where the lowest units stay, at a share of the width where units go evenly, a stride
of two where neighbours go in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.structure.groups import ChannelGroup

Kept = dict[str, list[int]]
"""Units that stay, by group name; groups that are missing stay whole."""
_Place = Callable[[np.random.Generator, int, int], list[int]]


def _lowest(_: np.random.Generator, size: int, count: int) -> list[int]:
    return list(range(count))


def _highest(_: np.random.Generator, size: int, count: int) -> list[int]:
    return list(range(size - count, size))


def _scattered(rng: np.random.Generator, size: int, count: int) -> list[int]:
    return sorted(rng.permutation(size)[:count].tolist())


# Where the units lie that stay, and what share of the group they are: from one to all but one.
WAYS: Sequence[tuple[_Place, float]] = (
    (_scattered, 1 / 2),
    (_lowest, 1 / 2),
    (_highest, 1 / 4),
    (_highest, 3 / 4),
    (_scattered, 3 / 4),
    (_scattered, 0),
    (_scattered, 1),
)


def probes(groups: Sequence[ChannelGroup]) -> list[Kept]:
    """Return what to keep of all groups, test by test.

    Every group goes through all ways in an order of its own, so that widths do not stay in
    proportion: one may be taken for another, or for a share of it.
    """
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(WAYS)) for _ in groups]
    return [
        {
            g.name: _keep(rng, g.size, *WAYS[order[i]])
            for g, order in zip(groups, orders, strict=True)
        }
        for i in range(len(WAYS))
    ]


def _keep(rng: np.random.Generator, size: int, place: _Place, share: float) -> list[int]:
    # Odd, so that no split into equal parts comes out even.
    count = min(int(size * share) | 1, size - 1)
    return place(rng, size, count)
