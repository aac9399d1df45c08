"""Where layers are measured, and the surfaces that the measurements make."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from autoprune.core.records import plain, read
from autoprune.cost.latency.curves import LayerLatency
from autoprune.cost.latency.signature import BARE, Family, Signature
from autoprune.profiling.grid import assemble, wanted
from autoprune.profiling.refinement import LARGEST_MULTIPLE, coarse, refined
from autoprune.profiling.sampling import REFINED
from autoprune.profiling.stopwatch import Timing


def conv(inputs: int, outputs: int, groups: int = 1) -> Signature:
    return Signature("conv2d", inputs, outputs, (3, 3), (1, 1), (1, 1), (1, 1), groups, (8, 8))


def timing(ms: float, spread: float = 0.0) -> Timing:
    return Timing(ms, spread, 7)


def measured(family: Family, ms: Callable[[Signature], float]) -> dict[Signature, Timing]:
    """Measure until nothing is wanted any more."""
    known: dict[Signature, Timing] = {}
    while missing := set(wanted([family], known.get, REFINED)) - known.keys():
        known |= {one: timing(ms(one)) for one in missing}
    return known


@given(st.integers(1, 3000), st.booleans())
def test_coarse_lengths_rise_from_one_to_the_full_width(length: int, varies: bool) -> None:
    found = coarse(length, varies, LARGEST_MULTIPLE)
    assert found == sorted(set(found))
    assert found[-1] == length
    assert found[0] == (1 if varies else length)


def test_a_straight_curve_is_measured_coarsely() -> None:
    found = refined(512, True, lambda n: timing(1.0 + 0.01 * n), LARGEST_MULTIPLE)
    assert {1, 64, 128, 256, 512} <= found
    assert len(found) <= 9 + 2 * 4  # one look into every stretch


def test_a_step_is_found_from_both_sides() -> None:
    found = refined(256, True, lambda n: timing(1.0 if n <= 176 else 2.0), LARGEST_MULTIPLE)
    assert {176, 177} <= found


def test_noise_is_not_taken_for_steps() -> None:
    random = np.random.default_rng(0)
    found = refined(
        512, True, lambda n: timing(float(random.uniform(1, 2)), spread=1.0), LARGEST_MULTIPLE
    )
    assert len(found) <= 9 + 2 * 4


def test_duplicates_are_wanted_once_and_everything_is_measured_once() -> None:
    family = Family(conv(64, 64), True, True)
    known = measured(family, lambda one: one.inputs * one.channels_out * 1e-3)
    assert not set(wanted([family], known.get, REFINED)) - known.keys()


def test_a_product_of_two_staircases_is_told_at_every_width() -> None:
    def ms(one: Signature) -> float:
        return 0.1 * math.ceil(one.inputs / 16) * math.ceil(one.channels_out / 16)

    family = Family(conv(64, 96), True, True)
    known = measured(family, ms)
    (layer,) = assemble([family], known.get, REFINED)
    (surface,) = layer.surfaces
    along, across = surface.inputs.at_all(64), surface.outputs.at_all(96)
    for inputs in (16, 17, 31, 32, 33, 64):
        for outputs in (16, 17, 48, 49, 95, 96):
            exact = ms(conv(inputs, outputs))
            assert along[inputs] * across[outputs] / layer.dense_ms == pytest.approx(exact)
    assert surface.grid == pytest.approx(np.ones_like(surface.grid), abs=1e-4)


def test_grouped_convolutions_lose_whole_groups() -> None:
    family = Family(conv(24, 48, groups=12), False, True)
    known = measured(family, lambda one: 1.0 + one.groups)
    of_layer = known.keys() - {BARE}
    assert all(one.inputs == 2 and one.channels_out == 4 * one.groups for one in of_layer)
    (layer,) = assemble([family], known.get, REFINED)
    (surface,) = layer.surfaces
    assert surface.outputs.lengths[0] == 4 and surface.outputs.lengths[-1] == 48
    assert surface.inputs.lengths == (2,)


def test_json_round_trip() -> None:
    family = Family(conv(32, 64), True, True)
    (layer,) = assemble([family], measured(family, lambda one: one.channels_out / 7).get, REFINED)
    again = read(plain(layer), LayerLatency)
    assert (again.dense, again.alignment) == (layer.dense, layer.alignment)
    for mine, own in zip(again.surfaces, layer.surfaces, strict=True):
        assert (mine.inputs.ms, mine.outputs.lengths) == (own.inputs.ms, own.outputs.lengths)
        assert mine.grid == own.grid


# ------------------------------------------------------------------------------------- alignment


def fast_at(step: int) -> Callable[[Signature], float]:
    """A device with steps of 16 that is slow at other aligned channels than multiples."""

    def ms(one: Signature) -> float:
        if one.aligned_channels % step:
            return 0.02 + 3e-4 * one.inputs * one.channels_out
        return 0.02 + 1e-4 * 16 * math.ceil(one.inputs / 16) * one.channels_out

    return ms


@pytest.mark.parametrize("step", [1, 2, 4, 8])
@pytest.mark.parametrize("groups", [1, 64])
def test_the_multiples_at_which_a_layer_is_fast(step: int, groups: int) -> None:
    family = Family(conv(64, 64, groups=groups), groups == 1, True)
    known = measured(family, fast_at(step))
    (layer,) = assemble([family], known.get, REFINED)
    assert layer.alignment == step


@pytest.mark.parametrize("ms", [lambda n: 1e-3 * n, lambda n: 1.0 + n // 8])
def test_neither_slopes_nor_steps_are_taken_for_alignment(ms: Callable[[int], float]) -> None:
    family = Family(conv(64, 64), True, True)
    known = measured(family, lambda one: ms(one.inputs))
    (layer,) = assemble([family], known.get, REFINED)
    assert layer.alignment == 1


def test_layers_of_a_kind_agree_on_what_noise_hides_in_some() -> None:
    random = np.random.default_rng(0)
    layers = [Family(conv(size, 64), True, True) for size in range(32, 80, 4)]
    layers.append(Family(conv(7, 64), True, True))  # too narrow to be asked
    other = Family(replace(conv(64, 64), kernel=(1, 1)), True, True)
    known: dict[Signature, Timing] = {}
    while missing := set(wanted([*layers, other], known.get, REFINED)) - known.keys():
        for one in sorted(missing):
            is_noisy = one.kernel == (3, 3)
            noise = math.exp(random.normal(0, 0.05 * is_noisy))
            known[one] = timing(noise * fast_at(4 if is_noisy else 1)(one))
    found = REFINED.alignments([*layers, other], known.get)
    assert [found[one] for one in layers] == [4] * (len(layers) - 1) + [1]
    assert found[other] == 1


def test_misaligned_widths_have_separate_latencies() -> None:
    ms, family = fast_at(4), Family(conv(64, 64), True, True)
    (layer,) = assemble([family], measured(family, ms).get, REFINED)
    exact = [ms(conv(n, 64)) for n in range(1, 65)]
    assert layer.over_inputs() == pytest.approx(exact, rel=0.08)
    assert len(layer.over_outputs()) == 64
    with pytest.raises(ValueError, match="wrong number of surfaces"):
        read(plain(layer) | {"alignment": 1}, LayerLatency)
    with pytest.raises(ValueError, match="least to its full widths"):
        read(plain(layer) | {"alignment": 2}, LayerLatency)
