from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoprune.structure.tracing.assembly import components
from autoprune.structure.tracing.call import Call
from autoprune.structure.tracing.labels import FIXED, Atoms, along, canonical
from autoprune.structure.tracing.sizes import SizedCall, shares, sized_call, tied

aten = torch.ops.aten
LABELS = along(torch.arange(1, 9), (2, 8, 3, 3), 1)


def called(func: Any, *args: Any) -> SizedCall | None:
    """Return what a call on eight channels says."""
    x = torch.zeros(2, 8, 3, 3)
    out = func(x, *args)
    first = out[0] if isinstance(out, (list, tuple)) else out
    after = func(LABELS.contiguous(), *args)
    after = canonical(after[0] if isinstance(after, (list, tuple)) else after)
    call = Call(func.overloadpacket.__name__, func, (x, *args), {}, out)
    assert first.shape == after.shape
    return sized_call(call, LABELS, after, ("", "block"))


SIZES: dict[str, tuple[Callable[[], SizedCall | None], list[list[int]], bool]] = {
    "equal pieces": (lambda: called(aten.split.Tensor, 4, 1), [[1, 2, 3, 4], [5, 6, 7, 8]], True),
    "chunk": (lambda: called(aten.chunk.default, 2, 1), [[1, 2, 3, 4], [5, 6, 7, 8]], True),
    "pieces": (
        lambda: called(aten.split_with_sizes.default, [2, 6], 1),
        [[1, 2], [3, 4, 5, 6, 7, 8]],
        True,
    ),
    "a slice and the rest": (
        lambda: called(aten.slice.Tensor, 1, 2, 4),
        [[1, 2], [3, 4], [5, 6, 7, 8]],
        True,
    ),
    "a slice from the end": (
        lambda: called(aten.slice.Tensor, 1, -2, 2**62),
        [[1, 2, 3, 4, 5, 6], [7, 8]],
        True,
    ),
    "shuffled": (
        lambda: called(aten.channel_shuffle.default, 2),
        [[1, 2, 3, 4, 5, 6, 7, 8], [1, 5, 2, 6, 3, 7, 4, 8]],
        False,
    ),
    "rows": (
        lambda: called(aten.view.default, [2, 2, 4, 3, 3]),
        [[1, 2, 3, 4, 5, 6, 7, 8], [1, 5, 2, 6, 3, 7, 4, 8]],
        False,
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_channels(name: str) -> None:
    make, rows, is_split = SIZES[name]
    found = make()
    assert found is not None
    assert [one.reshape(-1).tolist() for one in found.sizes] == rows
    assert (found.is_split, found.modules) == (is_split, ("", "block"))
    assert found.atoms.tolist() == list(range(1, 9))


def test_sizes_of_the_image_are_none_of_channels() -> None:
    for func, args in (
        (aten.split.Tensor, (1, 2)),
        (aten.slice.Tensor, (3, 0, 2)),
        (aten.slice.Tensor, (1, 0, 2**62)),
    ):
        assert called(func, *args) is None


def units(links: list[tuple[int, int]], calls: list[list[list[int]]]) -> list[list[int]]:
    """Return the units of eight channels after links and splits into pieces."""
    atoms = Atoms()
    atoms.axis("a", 0, 8)
    for a, b in links:
        atoms.link(torch.tensor([a]), torch.tensor([b]))
    splits = [
        SizedCall((), tuple(torch.tensor(piece)[:, None] for piece in pieces), is_split=True)
        for pieces in calls
    ]
    unit = components(tied(atoms, splits, 0))
    found = [np.flatnonzero(unit == u).tolist() for u in dict.fromkeys(unit[1:].tolist())]
    return sorted(found)


HALVES = [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("links", "pieces", "expected"),
    [
        ([], HALVES, [[1, 5], [2, 6], [3, 7], [4, 8]]),
        ([], [[1, 2], [3, 4], [5, 6]], [[1, 3, 5], [2, 4, 6], [7], [8]]),
        # A unit that has as much in both pieces needs no partner; others find the next free one.
        ([(1, 6)], HALVES, [[1, 6], [2, 5], [3, 7], [4, 8]]),
        # Two channels of one piece and two single ones of the other come out even together.
        ([(1, 2)], HALVES, [[1, 2, 7, 8], [3, 5], [4, 6]]),
        ([(1, 2), (7, 8)], HALVES, [[1, 2, 7, 8], [3, 5], [4, 6]]),
        # Unequal pieces are not tied.
        ([], [[1, 2, 3], [4, 5, 6, 7, 8]], [[i] for i in range(1, 9)]),
        # A fixed place has no partner.
        ([], [[1, FIXED], [2, 3]], [[1, 2], [3], *([i] for i in range(4, 9))]),
    ],
)
def test_pieces_lose_equally_many(
    links: list[tuple[int, int]], pieces: list[list[int]], expected: list[list[int]]
) -> None:
    assert units(links, [pieces]) == expected


def test_a_view_shrinks_along_one_dimension() -> None:
    rows: Tensor = torch.arange(1, 9).reshape(2, 4)
    call = SizedCall((), (rows, rows.T))
    atoms = Atoms()
    atoms.axis("a", 0, 8)
    for place, count in ((0, 4), (1, 2)):
        assert len(set(components(tied(atoms, [call], place))[1:])) == count
    assert atoms.links == []


def test_shares_are_of_whole_entries() -> None:
    unit = np.array([0, 1, 1, 2, 2, 3, 3, 4, 4])
    owners = np.array([-1, 0, 0, 0, 0, 1, 1, 1, 1])
    single, paired = torch.arange(1, 9)[:, None], torch.arange(1, 9).reshape(4, 2)
    assert shares(single, unit, owners, [2, 2]) == {0: 2, 1: 2}
    assert shares(paired, unit, owners, [2, 2]) == {0: 1, 1: 1}
    # Entries made of two units belong to none, nor do groups that lie there in part.
    assert shares(torch.tensor([[1, 3], [2, 4], [5, 6], [7, 8]]), unit, owners, [2, 2]) == {1: 1}
    assert shares(torch.tensor([[1], [2], [FIXED]]), unit, owners, [2, 2]) == {}
