"""Random cuts of a structure, to be compared with the dense network."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from autoprune.structure.groups import Structure


def random_cuts(structure: Structure) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """Yield batch sizes, each with the units that every group keeps, few and many of them."""
    generator = torch.Generator().manual_seed(1)
    for batch, keep in product((1, 3), (0.3, 0.7)):
        yield (
            batch,
            {
                g.name: torch.randperm(g.size, generator=generator)[: max(1, round(g.size * keep))]
                .sort()
                .values.tolist()
                for g in structure.groups
            },
        )
