"""The learning rate is spread over the steps of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.recovery.schedule import WARM_UP, Schedule, learning_rate


def test_steps_are_shares_of_a_run() -> None:
    schedule = Schedule(4, 3)
    assert [schedule.completed(done) for done in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert Schedule(0, 0).completed(0) == 1


def test_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert learning_rate(0) == 0
    assert learning_rate(WARM_UP / 2) == pytest.approx(0.5)
    assert learning_rate(WARM_UP) == pytest.approx(1)
    assert learning_rate((1 + WARM_UP) / 2) == pytest.approx(0.5)
    assert learning_rate(1) == 0


@given(st.floats(0, 100))
def test_rate_is_a_share_even_behind_the_end(share: float) -> None:
    assert 0 <= learning_rate(share) <= 1
