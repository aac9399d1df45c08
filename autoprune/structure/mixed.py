"""What operators without weights compute once some of the channels that they combine are cut.

A normalisation of fewer channels has other statistics, and attention over fewer channels another
scale. That is no fault of the cut: the dense network that a cut one is compared with runs such
operators on the channels that are left (`comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.structure.groups import Structure
from autoprune.structure.mixers import Mixer

Columns = Mapping[tuple[str, int], tuple[Mixer, Tensor]]
"""Mixers and the columns that are left, by operator and number of the call."""


def columns_left(structure: Structure, kept: Mapping[str, Sequence[int]]) -> Columns:
    """Return the columns that a cut leaves to every operator that combines them.

    Args:
        structure: structure of the network.
        kept: units that are kept, by group name; other groups stay whole.
    """
    stays = {one.name: np.ones(one.shape[1], bool) for one in structure.mixers if one.arguments}
    for name, units in kept.items():
        group = structure.groups[structure.index[name]]
        gone = np.setdiff1d(np.arange(group.size), units)
        for s in group.mixed:
            if s.dim == 1 and s.tensor in stays:
                stays[s.tensor][s.positions[gone]] = False
    return {
        (one.operator, one.call): (one, torch.from_numpy(np.flatnonzero(stays[one.name])))
        for one in structure.mixers
        if one.arguments and not stays[one.name].all()
    }


def run_on(
    mixer: Mixer, columns: Tensor, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run an operator on some of its columns; where the others would be, its result is zero."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    columns = columns.to(next(leaf.device for leaf in args if isinstance(leaf, Tensor)))
    for name, dim in mixer.arguments.items():
        if given.get(name) is not None:
            given[name] = given[name].index_select(dim, columns)
    if "normalized_shape" in given:
        given["normalized_shape"] = [len(columns)]
    out = func(**given)
    if mixer.out_dim is None:
        return out
    whole, *others = out if isinstance(out, tuple) else (out,)
    shape = [*whole.shape]
    shape[mixer.out_dim] = mixer.shape[1]
    spread = whole.new_zeros(shape).index_copy(mixer.out_dim, columns, whole)
    return (spread, *others) if others else spread
