"""Labels that meet in element-wise arithmetic: channels that are combined become one unit."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.structure.tracing.call import joined
from autoprune.structure.tracing.labels import (
    CONSTANT,
    FIXED,
    Atoms,
    canonical,
    constant,
    shrink,
    varying,
)


def merge(atoms: Atoms, operands: list[Tensor], shape: torch.Size) -> Tensor:
    """Return the labels of an element-wise result, linking labels that are combined."""
    rank = len(shape)
    aligned = [
        one.reshape((1,) * (rank - one.dim()) + one.shape) for one in map(canonical, operands)
    ]
    aligned = _without_maps(atoms, _without_tables(atoms, aligned))
    moving = [set(varying(one)) for one in aligned]
    result = constant((1,) * rank, CONSTANT)
    for i, one in enumerate(aligned):
        others: set[int] = set().union(*(m for j, m in enumerate(moving) if j != i))
        repeated = {d for d in others if one.shape[d] == 1 and shape[d] > 1}
        if repeated:
            # One value is used for many channels (a mask, a scalar): there is nothing to align,
            # unless this operand has channels along another dimension.
            if moving[i] and not _link_table(atoms, one, aligned):
                for each in aligned:
                    atoms.block(each, "multiplied into an outer product")
            continue
        one = shrink(one)
        a, b = torch.broadcast_tensors(result, one)
        for fixed, met in ((a, b), (b, a)):
            atoms.block(met[(fixed == FIXED) & (met > 0)], "combined with a tensor of fixed size")
        atoms.link(a, b)
        result = torch.where(a > 0, a, torch.maximum(a, b))
    return canonical(result.expand(shape))


def _link_table(atoms: Atoms, part: Tensor, operands: list[Tensor]) -> bool:
    """Link the rows or columns of a table with an operand that has a value for each of them.

    Args:
        atoms: the atoms.
        part: labels of the operand.
        operands: labels of all operands.

    Returns:
        Whether there is such a table among them.
    """
    whole = max(operands, key=lambda one: len(varying(one)))
    dims, own = varying(whole), varying(part)
    if set(own) & set(dims) and set(own) - set(dims) and atoms.is_tensor(part):
        # A value for every column and position (rotary embeddings): positions stay whole.
        part = joined(atoms, part, set(own) & set(dims))
        own = varying(part)
    table = shrink(whole).reshape(-1, whole.shape[dims[-1]])
    if own == dims[:-1] and (table > 0).all():
        atoms.link_rows(table, shrink(part).reshape(-1), None)
    elif own == dims[-1:] and (table > 0).all():
        atoms.link_rows(table, None, shrink(part).reshape(-1))
    else:
        return False
    return True


def _without_tables(atoms: Atoms, operands: list[Tensor]) -> list[Tensor]:
    """Leave out parameters and buffers that are added to entries of a fixed size, and block them.

    A position bias of a single head is one: the scores that it is added to are no channels.
    """
    fixed = [one for one in operands if bool((shrink(one) == FIXED).all())]
    kept = []
    for one in operands:
        whole = any(all(other.shape[d] > 1 for d in varying(one)) for other in fixed)
        if varying(one) and whole and atoms.is_tensor(one):
            atoms.block(one, "combined with a tensor of fixed size")
        else:
            kept.append(one)
    return kept


def _without_maps(atoms: Atoms, operands: list[Tensor]) -> list[Tensor]:
    """Leave out parameters and buffers that vary over other dimensions than the channels do.

    A window, a mask or a position bias of height and width has no channels to be followed.
    """
    moving = [set(varying(one)) for one in operands]
    channels = set().union(
        *(m for one, m in zip(operands, moving, strict=True) if not atoms.is_tensor(one))
    )
    return [
        one
        for one, m in zip(operands, moving, strict=True)
        if not m
        or m & channels
        or not any(one.shape[d] == 1 for d in channels)
        or not atoms.is_tensor(one)
    ]
