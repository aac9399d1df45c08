from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import UsageError
from autoprune.sparsity.patterns import Blocks, FewOfEvery, find_pattern


def test_the_smallest_go() -> None:
    scores = torch.tensor([[0.1, 4.0, 3.0, 0.2], [5.0, 0.3, 0.4, 2.0]])
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    assert torch.equal(find_pattern("unstructured").kept(scores, 3 / 8), expected)


def test_two_of_every_four_stay() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]])
    expected = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(find_pattern("2:4").kept(scores, 0.0), expected)


def test_blocks_go_as_a_whole() -> None:
    """Totals of 2x1 blocks: (3, 5, 9) above (4, 1, 2)."""
    scores = torch.tensor([[1.0, 5, 4], [2, 0, 5], [4, 0, 1], [0, 1, 1]])
    pattern = find_pattern("2x1")
    assert isinstance(pattern, Blocks)
    assert pattern.totals(scores).tolist() == [[3, 5, 9], [4, 1, 2]]
    kept = pattern.kept(scores, 0.5)
    assert kept.tolist() == [[False, True, True]] * 2 + [[True, False, False]] * 2


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4),
    st.floats(0, 0.99), st.integers(0, 9),
)  # fmt: skip
def test_as_many_as_asked_for(
    rows: int, columns: int, down: int, across: int, amount: float, seed: int
) -> None:
    scores = torch.rand(
        rows * down, columns * across, generator=torch.Generator().manual_seed(seed)
    )
    kept = Blocks(rows, columns).kept(scores, amount)
    blocks = Blocks(rows, columns).totals(kept.float())
    assert set(blocks.unique().tolist()) <= {0, rows * columns}
    assert int((blocks == 0).sum()) == round(amount * down * across)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 9))
def test_so_many_of_every_run(few: int, more: int, runs: int, seed: int) -> None:
    scores = torch.rand(3, runs * (few + more), generator=torch.Generator().manual_seed(seed))
    pattern = FewOfEvery(few, few + more)
    kept = pattern.kept(scores, 0.9).reshape(-1, few + more)
    assert set(kept.sum(1).tolist()) == {few}
    values = scores.reshape(-1, few + more)
    assert bool(
        (values.masked_fill(~kept, 2).amin(1) >= values.masked_fill(kept, -1).amax(1)).all()
    )


def test_what_divides() -> None:
    assert Blocks(4, 1).fits(8, 3) and not Blocks(4, 1).fits(6, 3)
    assert FewOfEvery(2, 4).fits(5, 8) and not FewOfEvery(2, 4).fits(8, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unstructurd", "did you mean 'unstructured'?"),
        ("4:2", "leaves nothing to remove"),
        ("0x4", "unknown pattern '0x4'"),
        ("2:4:8", "unknown pattern '2:4:8'"),
    ],
)
def test_no_pattern(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_pattern(text)
