"""Labels of channels: numbering, links, and writes through views."""

from __future__ import annotations

import torch

from autoprune.structure.tracing.labels import (
    CONSTANT,
    FIXED,
    Atoms,
    along,
    canonical,
    constant,
    overwritten,
    shrink,
    varying,
)


def test_a_dimension_is_numbered_once() -> None:
    atoms = Atoms()
    assert atoms.axis("w", 0, 3).tolist() == [1, 2, 3]
    assert atoms.axis("v", 0, 2).tolist() == [4, 5]
    assert atoms.axis("w", 0, 3).tolist() == [1, 2, 3] and atoms.count == 6


def test_links_broadcast_and_leave_out_what_is_no_channel() -> None:
    atoms = Atoms()
    atoms.link(torch.tensor([[1], [2]]), torch.tensor([3, FIXED, CONSTANT]))
    assert [(pairs.tolist(), way) for pairs, way in atoms.links] == [([[1, 2], [3, 3]], None)]
    atoms.link(torch.tensor([4]), torch.tensor([4]))  # the same unit already
    assert len(atoms.links) == 1


def test_only_channels_are_blocked() -> None:
    atoms = Atoms()
    atoms.block(constant((2, 3)), "nothing")
    atoms.block(along(torch.tensor([2, 1, CONSTANT]), (4, 3), 1), "a reason")
    assert [(found.tolist(), reason) for found, reason in atoms.blocked] == [([1, 2], "a reason")]


def test_a_copy_can_be_extended_alone() -> None:
    atoms = Atoms()
    atoms.axis("w", 0, 3)
    other = atoms.copy()
    other.axis("v", 0, 2)
    assert atoms.count == 4 and ("v", 0) not in atoms.axes


def test_labels_are_stored_along_varying_dimensions_only() -> None:
    whole = torch.tensor([1, 2]).reshape(1, 2, 1).repeat(3, 1, 4)
    labels = canonical(whole)
    assert torch.equal(labels, whole) and varying(labels) == (1,)
    assert shrink(labels).shape == (1, 2, 1)
    assert varying(along(torch.tensor([1, 2, 3]), (2, 3), 1)) == (1,)


def test_a_write_shows_in_the_overlapping_part_of_a_view() -> None:
    memory = torch.zeros(2, 3)
    view, written = memory[:, 1:], memory[:, :2]
    before = torch.tensor([[1, 2], [1, 2]])
    found = overwritten(view, before, written, torch.tensor([[7, 8], [7, 8]]))
    assert found.tolist() == [[8, 2], [8, 2]]


def test_a_table_is_linked_by_rows_for_heads_and_by_columns_for_widths() -> None:
    atoms = Atoms()
    table, rows = atoms.axis("w", 0, 6).reshape(2, 3), atoms.axis("heads", 0, 2)
    assert atoms.ways == (None,)
    atoms.link_rows(table, rows, None)
    assert [(pairs.T.tolist(), way) for pairs, way in atoms.links] == [
        ([[1, 7], [2, 7], [3, 7], [4, 8], [5, 8], [6, 8]], "heads"),
        ([[4, 1], [5, 2], [6, 3]], "widths"),
    ]
    assert atoms.ways == ("heads", "widths")


def test_one_row_is_cut_in_one_way() -> None:
    atoms = Atoms()
    atoms.link_rows(atoms.axis("w", 0, 3)[None], None, atoms.axis("norm", 0, 3))
    assert [(pairs.T.tolist(), way) for pairs, way in atoms.links] == [
        ([[1, 4], [2, 5], [3, 6]], None)
    ]
    assert not atoms.tables
