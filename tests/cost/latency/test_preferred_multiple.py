from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from autoprune.cost.latency.curves import Curve, LayerLatency, Surface
from autoprune.cost.latency.preferred_multiple import preferred_multiple
from autoprune.cost.latency.signature import Signature


def layer(ms: Callable[[int], float], size: int = 128) -> LayerLatency:
    lengths = tuple(range(1, size + 1))
    curve = Curve(lengths, tuple(map(ms, lengths)), (0.0,) * size)
    dense = Signature("linear", size, size, (), (), (), (), 1, ())
    return LayerLatency(dense, 1, (Surface(curve, curve, (size,), (size,), ((1.0,),)),))


@pytest.mark.parametrize("step", [4, 8, 16])
def test_the_edges_of_a_staircase_are_favoured(step: int) -> None:
    assert preferred_multiple([layer(lambda n: 1.0 + -(-n // step))]) == step


def test_on_a_slope_every_channel_counts() -> None:
    assert preferred_multiple([layer(lambda n: float(n))]) == 1


def test_long_layers_decide() -> None:
    stairs = layer(lambda n: 100.0 * -(-n // 16))
    assert preferred_multiple([stairs, layer(lambda n: 0.001 * n)]) == 16


def test_groups_are_counted_not_their_outputs() -> None:
    """A convolution of 32 groups of 4 outputs that is quick at multiples of 4 groups."""

    def surface(ms: Callable[[int], float], groups: Sequence[int]) -> Surface:
        lengths = tuple(4 * n for n in groups)
        curve = Curve(lengths, tuple(map(ms, groups)), (0.0,) * len(lengths))
        return Surface(Curve((4,), curve.ms[-1:], (0.0,)), curve, (4,), lengths[-1:], ((1.0,),))

    dense = Signature("conv2d", 128, 128, (3, 3), (1, 1), (1, 1), (1, 1), 32, (8, 8))
    quick, slow = surface(float, range(4, 33, 4)), surface(lambda n: 2.0 * n, (1, *range(3, 33, 4)))
    assert preferred_multiple([LayerLatency(dense, 4, (quick, slow))]) == 4


def test_where_odd_widths_are_slow_multiples_are_favoured() -> None:
    def curve(ms: Callable[[int], float], lengths: Sequence[int]) -> Curve:
        return Curve(tuple(lengths), tuple(map(ms, lengths)), (0.0,) * len(lengths))

    def surface(ms: Callable[[int], float], lengths: Sequence[int]) -> Surface:
        grid = (lengths[-1],), (10,), ((1.0,),)
        return Surface(curve(ms, lengths), Curve((10,), (ms(lengths[-1]),), (0.0,)), *grid)

    dense = Signature("linear", 128, 10, (), (), (), (), 1, ())
    quick, slow = (
        surface(float, range(4, 129, 4)),
        surface(lambda n: 2.0 * n, (1, *range(3, 129, 4))),
    )
    assert preferred_multiple([LayerLatency(dense, 4, (quick, slow))]) == 4
