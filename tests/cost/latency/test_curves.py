"""Curves over the lengths of a layer, and the alignment classes of these lengths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.records import read
from autoprune.cost.latency.alignment import Axis, alignment_classes
from autoprune.cost.latency.curves import Curve


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.data())
def test_between_two_lengths_lies_between_their_latencies(
    ms: list[float], data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.integers(1, 20), min_size=len(ms), max_size=len(ms)))
    lengths = tuple(np.cumsum(steps).tolist())
    every = Curve(lengths, tuple(ms), (0.0,) * len(ms)).at_all(lengths[-1])
    for (low, high), (a, b) in zip(
        itertools.pairwise(lengths), itertools.pairwise(ms), strict=True
    ):
        between = every[low : high + 1]
        assert (between >= min(a, b) - 1e-9).all() and (between <= max(a, b) + 1e-9).all()


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8]))
def test_alignment_classes_stand_for_every_length(full: int, step: int) -> None:
    """Aligned are all multiples; the other class has the last length before each, or the full."""
    axes = [Axis(full, alignment_class=one) for one in alignment_classes(step)]
    found = [[axis.at(position) for position in range(1, axis.count + 1)] for axis in axes]
    assert found[0] == [n for n in range(1, full + 1) if n % step == 0]
    for misaligned in found[1:]:
        assert misaligned == sorted(set(misaligned))
        ends = range(step, full + step, step)
        assert misaligned == [min(n - 1, full) for n in ends]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": [1, 1], "ms": [1.0, 2.0], "spread_ms": [0.0, 0.0]}, "do not rise"),
        ({"lengths": [1, 2], "ms": [1.0, -2.0], "spread_ms": [0.0, 0.0]}, r"ms\[1\]: -2.0"),
        ({"lengths": [1, 2], "ms": [1.0], "spread_ms": [0.0, 0.0]}, "different numbers of lengths"),
        ({"lengths": [], "ms": [], "spread_ms": []}, "do not rise"),
    ],
)
def test_curves_that_cannot_be(change: dict[str, list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(change, Curve)
