"""Runs end at the first of their limits; the learning rate fits whatever time there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.recovery.schedule import WARM_UP, by_clock, by_steps, first_of, learning_rate


def test_by_steps() -> None:
    schedule = by_steps(4)
    assert [schedule(done) for done in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_by_clock_begins_now_and_counts_no_steps() -> None:
    now = iter([100.0, 103.0, 110.0])
    schedule = by_clock(10.0, lambda: next(now))
    assert schedule(7) == pytest.approx(0.3)
    assert schedule(7) == 1


def test_the_first_limit_counts() -> None:
    schedule = first_of(lambda done: 0.4, by_steps(10))
    assert (schedule(1), schedule(5)) == (0.4, 0.5)


def test_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert learning_rate(0) == 0
    assert learning_rate(WARM_UP / 2) == pytest.approx(0.5)
    assert learning_rate(WARM_UP) == pytest.approx(1)
    assert learning_rate((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert learning_rate(1) == 0


@given(st.floats(0, 100))
def test_rate_is_a_share_even_when_the_clock_has_run_over(share: float) -> None:
    assert 0 <= learning_rate(share) <= 1
