"""Groups of linked atoms, by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from autoprune.structure.groups import LayerSpec
from autoprune.structure.tracing.assembly import assemble
from autoprune.structure.tracing.labels import Atoms
from autoprune.structure.tracing.trace import trace

SHAPES = {"a.weight": (4, 3), "b.weight": (2, 4)}


def layers() -> list[LayerSpec]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    found = trace(model.eval(), torch.zeros(1, 3)).layers
    return [
        replace(one, name=name, weight=f"{name}.weight")
        for one, name in zip(found, "ab", strict=True)
    ]


def test_linked_outputs_and_inputs_are_one_group() -> None:
    atoms = Atoms()
    outputs, inputs = atoms.axis("a.weight", 0, 4), atoms.axis("b.weight", 1, 4)
    atoms.link(outputs, inputs)
    (group,), frozen, owners = assemble(atoms, layers(), SHAPES)
    assert (group.name, group.size, frozen) == ("a", 4, ())
    assert [(s.tensor, s.dim, s.role) for s in group.slices] == [
        ("a.weight", 0, "producer"),
        ("b.weight", 1, "consumer"),
    ]
    assert owners.tolist() == [[-1, *[0] * 8]]


def test_units_of_different_shares_are_different_groups() -> None:
    """Atoms 0 and 1 are each read twice: inputs 0 and 2, inputs 1 and 3."""
    atoms = Atoms()
    outputs, inputs = atoms.axis("a.weight", 0, 4), atoms.axis("b.weight", 1, 4)
    atoms.link(outputs[[0, 1, 0, 1]], inputs)
    (group,), (unread,), _ = assemble(atoms, layers(), SHAPES)
    assert group.slices[1].positions.tolist() == [[0, 2], [1, 3]]
    assert (unread.size, unread.reason) == (2, "no layer reads it")


def test_blocked_channels_freeze_with_their_first_reason() -> None:
    atoms = Atoms()
    outputs, inputs = atoms.axis("a.weight", 0, 4), atoms.axis("b.weight", 1, 4)
    atoms.link(outputs, inputs)
    atoms.block(outputs[:3], "first")
    atoms.block(inputs, "second")
    groups, frozen, _ = assemble(atoms, layers(), SHAPES)
    assert not groups
    assert [(one.size, one.reason) for one in frozen] == [(3, "first"), (1, "second")]
