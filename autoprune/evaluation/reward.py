"""From a measurement to the one number that a search maximises: built-in rewards and the user's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from autoprune.core.plugins import Kind
from autoprune.errors import RewardError, UsageError, shown, user_code
from autoprune.evaluation.measurement import Measurement, Scores, number_in

Reward: TypeAlias = Callable[[Measurement], float]
"""Larger is better."""

DEFAULT_REWARD = "kl"


def negative_kl(measurement: Measurement) -> float:
    """−softened KL to the dense network: needs no labels, and is least noisy on small splits."""
    assert measurement.scores.soft_kl is not None
    return -measurement.scores.soft_kl


def negative_plain_kl(measurement: Measurement) -> float:
    """−KL as it is, by which runs begun before it was softened go on."""
    assert measurement.scores.kl is not None
    return -measurement.scores.kl


def custom_score(measurement: Measurement) -> float:
    """Return the user's own score."""
    assert measurement.scores.custom is not None
    return measurement.scores.custom


def score_or_kl(measurement: Measurement) -> float:
    """Return the user's own score where there is an `evaluate`, else −KL."""
    return (negative_kl if measurement.scores.custom is None else custom_score)(measurement)


def negative_error(measurement: Measurement) -> float:
    """−error: AMC's reward under a hard budget (He et al. 2018, R_err)."""
    assert measurement.scores.top1 is not None
    return measurement.scores.top1 - 1


def error_times_log_flops(measurement: Measurement) -> float:
    """−error · ln(MACs) (He et al. 2018, R_FLOPs), MACs of one input."""
    return -_error(measurement.scores) * _log(measurement.costs["flops"])


def error_times_log_latency(measurement: Measurement) -> float:
    """−error · ln(latency in microseconds), after He et al. 2018; the cost "latency" is in ms."""
    return -_error(measurement.scores) * _log(1000 * measurement.costs["latency"])


def _error(scores: Scores) -> float:
    """Return the error, at least half a sample's: where it is zero, every cost would be as good."""
    assert scores.top1 is not None
    return max(1 - scores.top1, 0.5 / max(scores.samples, 1))


def _log(cost: float) -> float:
    """Return ln(cost), at least 1: below zero, more errors would be better."""
    return math.log(max(cost, math.e))


@dataclass(frozen=True)
class BuiltIn:
    """A reward of ours and what it needs.

    Attributes:
        function: the reward.
        needs_budget: whether nothing but a budget keeps it from leaving the network whole.
        needs_labels: whether it reads top-1.
        cost: that it reads besides.
    """

    function: Reward
    needs_budget: bool = True
    needs_labels: bool = False
    cost: str | None = None


BUILT_IN: Mapping[str, BuiltIn] = {
    "kl": BuiltIn(score_or_kl),
    "accuracy": BuiltIn(negative_error, needs_labels=True),
    "accuracy_flops": BuiltIn(
        error_times_log_flops, needs_budget=False, needs_labels=True, cost="flops"
    ),
    "accuracy_latency": BuiltIn(
        error_times_log_latency, needs_budget=False, needs_labels=True, cost="latency"
    ),
}


KIND = Kind("reward", "autoprune.rewards", BUILT_IN)


@dataclass(frozen=True)
class NamedReward:
    """A reward under the name that its user knows it by."""

    name: str
    function: Callable[[Measurement], Any]

    def __call__(self, measurement: Measurement) -> float:
        """Return the reward.

        Raises:
            RewardError: the function raises, or returns no finite number.
        """
        with user_code(lambda reason: self._error(f"raised {reason}", measurement)):
            # A copy: what it does to the measurement is not to be seen in others, or in the record.
            answer = self.function(copy.deepcopy(measurement))
        value = number_in(answer)
        if value is None or not math.isfinite(value):
            fault = f"returned {shown(answer)}, which is not a finite number,"
            raise self._error(fault, measurement)
        return value

    def _error(self, fault: str, measurement: Measurement) -> RewardError:
        costs = ", ".join(f"{name}={cost:.12g}" for name, cost in measurement.costs.items())
        return RewardError(f"the reward {self.name!r} {fault} for a network of {costs}")


def on_the_scale_of(reward: NamedReward, earlier: Iterable[Measurement]) -> NamedReward:
    """Return the reward as a run's earlier trials were valued by it."""
    scores = [measurement.scores for measurement in earlier]
    before = any(one.kl is not None and one.soft_kl is None for one in scores)
    if reward.name == DEFAULT_REWARD and before:
        return replace(reward, function=negative_plain_kl)
    return reward


def find_reward(wanted: str | Callable[[Measurement], Any]) -> NamedReward:
    """Return the reward that is meant, with its name.

    Args:
        wanted: a name in `BUILT_IN` or of an entry point in the group `autoprune.rewards`,
            `path/to/file.py:function`, `package.module:function`, or the function itself.

    Raises:
        UsageError: there is no such reward, or it cannot be called.
    """
    if not (callable(wanted) or isinstance(wanted, str)):
        raise UsageError(f"reward must be a function or the name of one, but got {wanted!r}.")
    found, name = KIND.load(wanted), KIND.name_of(wanted)
    function = found.function if isinstance(found, BuiltIn) else found
    if not callable(function):
        kind = type(function).__name__
        raise UsageError(f"reward {name!r} names no function: {kind} is not callable.")
    return NamedReward(name, function)


def needs_no_budget(name: str) -> bool:
    """Whether a reward is known to weigh the costs itself; of the user's own nothing is known."""
    return name in BUILT_IN and not BUILT_IN[name].needs_budget


def check_labels(name: str, dense: Scores) -> None:
    """Refuse a built-in reward on top-1 where there is none.

    Args:
        name: of the reward.
        dense: scores of the dense network.

    Raises:
        UsageError: they hold no top-1.
    """
    if name in BUILT_IN and BUILT_IN[name].needs_labels and dense.top1 is None:
        lacking = "the data has no labels" if dense.custom is None else "evaluate gives none"
        raise UsageError(
            f"the reward {name!r} needs top-1 accuracy, and {lacking}; choose the reward 'kl'."
        )
