from __future__ import annotations

import pytest

from autoprune.training.duration import Duration, learning_rate


@pytest.mark.parametrize(
    ("duration", "steps", "seconds", "completed"),
    [
        (Duration(steps=200), 50, 1e9, 0.25),
        (Duration(seconds=60), 10**9, 15.0, 0.25),
        (Duration(steps=100, seconds=60), 50, 45.0, 0.75),
        (Duration(steps=100, seconds=60), 90, 30.0, 0.9),
    ],
)
def test_a_run_ends_with_the_first_limit(duration, steps, seconds, completed) -> None:
    assert duration.completed(steps, seconds) == completed


@pytest.mark.parametrize(
    ("completed", "rate"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (1.2, 0.0)],
)
def test_the_rate_rises_and_falls_as_a_cosine(completed: float, rate: float) -> None:
    assert learning_rate(completed, warm_up=0.1) == pytest.approx(rate)


def test_without_warm_up_the_rate_begins_at_its_peak() -> None:
    assert learning_rate(0.0, warm_up=0.0) == 1.0
