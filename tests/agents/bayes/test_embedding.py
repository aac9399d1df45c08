"""Bins of neighbouring groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.agents.bayes.embedding import Embedding, split_bins

WEIGHTS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40)


def test_the_heaviest_bin_is_split_where_its_halves_weigh_alike() -> None:
    weights = [1.0, 1.0, 1.0, 5.0, 1.0, 1.0]
    assert split_bins(weights, 1) == [(0, 6)]
    assert split_bins(weights, 2) == [(0, 3), (3, 6)]
    assert split_bins(weights, 3) == [(0, 3), (3, 4), (4, 6)]
    assert split_bins(weights, 6) == [(i, i + 1) for i in range(6)]


@given(WEIGHTS, st.data())
def test_every_group_is_in_one_bin_and_more_bins_are_parts_of_fewer(
    weights: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(weights)))
    bins = split_bins(weights, count)
    assert [group for start, end in bins for group in range(start, end)] == [*range(len(weights))]
    assert len(bins) == count and all(end > start for start, end in bins)
    if count > 1:
        ends = {end for _, end in bins}
        assert {end for _, end in split_bins(weights, count - 1)} < ends


@given(WEIGHTS, st.data())
def test_steps_come_back(weights: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(weights)))
    ratios = st.lists(st.floats(0.05, 1.0), min_size=len(weights), max_size=len(weights))
    embedding = Embedding(np.array(data.draw(ratios)), split_bins(weights, count))
    steps = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=count, max_size=count)))
    assert embedding.steps(embedding.ratios(steps)) == pytest.approx(steps, abs=1e-9)
    assert embedding.steps(embedding.centre) == pytest.approx(np.zeros(count))
