"""From a measurement to the one number that a search maximises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from autoprune.evaluation.measurement import Measurement

Reward: TypeAlias = Callable[[Measurement], float]
"""Larger is better."""


def negative_kl(measurement: Measurement) -> float:
    """−KL to the dense network: needs no labels, and far less noisy than top-1 on small splits."""
    assert measurement.scores.kl is not None
    return -measurement.scores.kl


def custom_score(measurement: Measurement) -> float:
    """Return the user's own score."""
    assert measurement.scores.custom is not None
    return measurement.scores.custom
