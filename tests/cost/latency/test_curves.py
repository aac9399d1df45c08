from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost.latency.curves import Curve, LayerLatency
from autoprune.cost.latency.refinement import assemble, coarse, nodes, wanted
from autoprune.cost.latency.signature import Family, Signature
from autoprune.cost.latency.stopwatch import Timing


def conv(inputs: int, outputs: int, groups: int = 1) -> Signature:
    return Signature("conv2d", inputs, outputs, (3, 3), (1, 1), (1, 1), (1, 1), groups, (8, 8))


def timing(ms: float, spread: float = 0.0) -> Timing:
    return Timing(ms, spread, 7)


def measured(family: Family, ms: Callable[[Signature], float]) -> dict[Signature, Timing]:
    """Measure until nothing is wanted any more."""
    known: dict[Signature, Timing] = {}
    while missing := set(wanted(family, known.get)) - known.keys():
        known |= {one: timing(ms(one)) for one in missing}
    return known


@given(st.integers(1, 3000), st.booleans())
def test_coarse_lengths_rise_from_one_to_the_full_width(length: int, varies: bool) -> None:
    found = coarse(length, varies)
    assert found == sorted(set(found))
    assert found[-1] == length
    assert found[0] == (1 if varies else length)


def test_a_straight_curve_is_measured_coarsely() -> None:
    found = nodes(512, True, lambda n: timing(1.0 + 0.01 * n))
    assert {1, 64, 128, 256, 512} <= found
    assert len(found) <= 9 + 2 * 4  # one look into every stretch


def test_a_step_is_found_from_both_sides() -> None:
    found = nodes(256, True, lambda n: timing(1.0 if n <= 176 else 2.0))
    assert {176, 177} <= found


def test_noise_is_not_taken_for_steps() -> None:
    random = np.random.default_rng(0)
    found = nodes(512, True, lambda n: timing(float(random.uniform(1, 2)), spread=1.0))
    assert len(found) <= 9 + 2 * 4


def test_duplicates_are_wanted_once_and_everything_is_measured_once() -> None:
    family = Family(conv(64, 64), True, True)
    known = measured(family, lambda one: one.inputs * one.channels_out * 1e-3)
    assert not set(wanted(family, known.get)) - known.keys()


def test_a_product_of_two_staircases_is_told_at_every_width() -> None:
    def ms(one: Signature) -> float:
        return 0.1 * math.ceil(one.inputs / 16) * math.ceil(one.channels_out / 16)

    family = Family(conv(64, 96), True, True)
    known = measured(family, ms)
    layer = assemble(family, known.get)
    along, across = layer.inputs.at_all(), layer.outputs.at_all()
    for inputs in (16, 17, 31, 32, 33, 64):
        for outputs in (16, 17, 48, 49, 95, 96):
            exact = ms(conv(inputs, outputs))
            assert along[inputs] * across[outputs] / layer.dense_ms == pytest.approx(exact)
    assert layer.grid == pytest.approx(np.ones_like(layer.grid), abs=1e-4)


def test_grouped_convolutions_lose_whole_groups() -> None:
    family = Family(conv(24, 48, groups=12), False, True)
    known = measured(family, lambda one: 1.0 + one.groups)
    assert all(one.inputs == 2 and one.channels_out == 4 * one.groups for one in known)
    layer = assemble(family, known.get)
    assert layer.outputs.lengths[0] == 4 and layer.outputs.lengths[-1] == 48
    assert layer.inputs.lengths == (2,)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.data())
def test_between_two_lengths_lies_between_their_latencies(
    ms: list[float], data: st.DataObject
) -> None:
    steps = data.draw(st.lists(st.integers(1, 20), min_size=len(ms), max_size=len(ms)))
    lengths = tuple(np.cumsum(steps).tolist())
    every = Curve(lengths, tuple(ms), (0.0,) * len(ms)).at_all()
    for (low, high), (a, b) in zip(
        itertools.pairwise(lengths), itertools.pairwise(ms), strict=True
    ):
        between = every[low : high + 1]
        assert (between >= min(a, b) - 1e-9).all() and (between <= max(a, b) + 1e-9).all()


def test_json_round_trip() -> None:
    family = Family(conv(32, 64), True, True)
    layer = assemble(family, measured(family, lambda one: one.channels_out / 7).get)
    again = LayerLatency.from_json(layer.to_json())
    assert (again.dense, again.inputs.ms, again.outputs.lengths) == (
        layer.dense,
        layer.inputs.ms,
        layer.outputs.lengths,
    )
    assert again.grid == pytest.approx(layer.grid, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": [1, 1], "ms": [1.0, 2.0], "spread_ms": [0.0, 0.0]}, "do not rise"),
        ({"lengths": [1, 2], "ms": [1.0, -2.0], "spread_ms": [0.0, 0.0]}, "ms: -2.0"),
        ({"lengths": [1, 2], "ms": [1.0], "spread_ms": [0.0, 0.0]}, "not equally many"),
        ({"lengths": [], "ms": [], "spread_ms": []}, "do not rise"),
    ],
)
def test_curves_that_cannot_be(change: dict[str, list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Curve.from_json(change)
