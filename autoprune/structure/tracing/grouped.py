"""Convolutions with groups: groups go as a whole, or all of them lose channels at the same places.

Whole groups are the finest units that leave the other groups alone. But a network may tie groups to
each other (split attention sums them up, a shuffle deals them out), so that they are one unit or a
few. Every group can then lose its channel i instead: the layer keeps its groups, each narrower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from autoprune.structure.tracing.assembly import components, sharing
from autoprune.structure.tracing.labels import Atoms, GroupedLayer

UNFED = "a convolution group reads positions that no channel feeds"


def link_whole(atoms: Atoms, layer: GroupedLayer) -> None:
    """Link all inputs and outputs of every convolution group into one unit."""
    atoms.link(layer.out, layer.out[:, :1])
    atoms.link(layer.read, layer.out[:, :1])
    atoms.block(layer.out[(layer.read <= 0).any(1)], UNFED)


def link_across(atoms: Atoms, layer: GroupedLayer) -> None:
    """Link the inputs at equal places of all convolution groups, and the outputs likewise."""
    atoms.link(layer.out, layer.out[:1])
    atoms.link(layer.read, atoms.axis(layer.weight, 1, layer.read.shape[1]))
    atoms.block(layer.read[:, (layer.read <= 0).any(0)], UNFED)


def settle(atoms: Atoms) -> Atoms:
    """Return the atoms with the links of all grouped convolutions, once other links are known.

    Layers whose groups share units are decided together: groups go whole unless some are tied to
    each other and more units are left if channels go from all of them.
    """
    whole = _linked(atoms, atoms.grouped, ())
    unit = components(whole)
    across: list[GroupedLayer] = []
    for layers in sharing((set(unit[one.out].flat), one) for one in atoms.grouped):
        if any(_units(unit, [one]) < len(one.out) for one in layers):
            rest = [one for one in atoms.grouped if one not in layers]
            tried = components(_linked(atoms, rest, layers))
            across += layers if _units(tried, layers) > _units(unit, layers) else []
    return _linked(atoms, [one for one in atoms.grouped if one not in across], across)


def _linked(atoms: Atoms, whole: Iterable[GroupedLayer], across: Iterable[GroupedLayer]) -> Atoms:
    found = atoms.copy()
    for layer in whole:
        link_whole(found, layer)
    for layer in across:
        link_across(found, layer)
    return found


def _units(unit: npt.NDArray[np.int64], layers: Sequence[GroupedLayer]) -> int:
    """Return the number of units that layers read or make."""
    labels = torch.cat([part.reshape(-1) for one in layers for part in (one.read, one.out)])
    return len(np.unique(unit[labels[labels > 0].numpy()]))
