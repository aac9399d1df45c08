from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autoprune.structure.cut_patterns import PATTERNS, cut_patterns
from autoprune.structure.groups import ChannelGroup


@given(st.lists(st.integers(2, 70), min_size=1, max_size=12))
def test_every_test_cuts_every_group_and_leaves_something(sizes: list[int]) -> None:
    groups = [ChannelGroup(str(i), size, ()) for i, size in enumerate(sizes)]
    for kept in cut_patterns(groups):
        assert kept.keys() == {g.name for g in groups}
        for group in groups:
            units = kept[group.name]
            assert units == sorted(set(units))
            assert 0 < len(units) < group.size
            assert set(units) <= set(range(group.size))


def test_a_group_goes_through_all_patterns() -> None:
    found = [kept["a"] for kept in cut_patterns([ChannelGroup("a", 16, ())])]
    assert sorted(map(len, found)) == [1, 5, 9, 9, 13, 13, 15]
    assert list(range(9)) in found  # the lowest
    assert list(range(11, 16)) in found and list(range(3, 16)) in found  # the highest


def test_widths_do_not_stay_in_proportion() -> None:
    groups = [ChannelGroup(str(i), 32, ()) for i in range(20)]
    widths = np.array([[len(kept[g.name]) for g in groups] for kept in cut_patterns(groups)])
    assert len(widths) == len(PATTERNS)
    assert all(len(set(row)) >= 3 for row in widths.tolist())
