from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from autoprune.errors import MeasuringError
from autoprune.profiling.stopwatch import FEWEST, WARM_UP, Timing, measure


def test_the_median_and_half_the_distance_of_the_quartiles() -> None:
    assert Timing.of([1, 2, 3, 4, 100]) == Timing(3, 1, 5)
    assert Timing.of([5]) == Timing(5, 0, 1)


def test_repeats_alternate_after_the_warm_up() -> None:
    calls: list[str] = []
    timings = measure([lambda: calls.append("a"), lambda: calls.append("b")])
    assert calls[: 2 * WARM_UP + 6] == ["a", "b"] * (WARM_UP + 3)
    assert all(one.repeats >= FEWEST and one.ms > 0 for one in timings)


def jumping() -> Iterator[float]:
    """Seconds that rise by one, but for every third step, which falls."""
    now, step = 0.0, 0
    while True:
        yield now
        step += 1
        now += -50.0 if step % 6 == 5 else 1.0


def test_repeats_during_which_the_clock_jumps_back_do_not_count() -> None:
    seconds = jumping()
    (timing,) = measure([lambda: None], clock=lambda: next(seconds))
    assert timing.ms == 1000.0 and timing.repeats >= FEWEST


def test_a_clock_that_jumps_far_ahead_does_not_move_the_median() -> None:
    jumps = itertools.cycle([1.0] * 9 + [7200.0])
    seconds = itertools.accumulate(jumps)
    (timing,) = measure([lambda: None], clock=lambda: next(seconds))
    assert (timing.ms, timing.spread_ms) == (1000.0, 0.0)


def test_a_clock_that_stands_still_is_told() -> None:
    with pytest.raises(MeasuringError, match="stands still"):
        measure([lambda: None], clock=lambda: 1.0)


def test_noise_beyond_what_is_measured_is_seen() -> None:
    assert Timing.of([0.1, 0.1, 1.0, 9.0, 9.5]).is_noisy
    assert not Timing.of([1.0, 1.1, 1.2]).is_noisy
