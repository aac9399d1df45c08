"""The contract of a reward, as tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import NamedReward, find_reward

# Costs of a dense network; "latency" is in milliseconds.
COSTS = {"flops": 1e6, "params": 2500.0, "memory": 1e5, "latency": 2.0}


class RewardContract:
    """Tests that every reward passes; override `make`."""

    def make(self) -> str | Callable[[Measurement], Any]:
        """Return the reward under test: a function, or a name as on the command line."""
        raise NotImplementedError

    def measurements(self) -> Iterator[Measurement]:
        """Yield the measurements to test with; override where the reward needs other scores."""
        for scores in (
            Scores(kl=0.4, loss=1.0, top1=0.75, soft_kl=0.5, samples=100),
            Scores(kl=0.0, loss=0.1, top1=1.0, soft_kl=0.0, samples=100),
            Scores(kl=9.0, loss=12.0, top1=0.0, soft_kl=20.0, samples=1),
        ):
            # Costs may be as small as nothing at all.
            for scale in (1.0, 0.5, 1e-6, 0.0):
                yield measurement(scores, scale)

    def test_values_are_finite_numbers(self) -> None:
        """Every measurement has a reward."""
        reward = self._reward()
        assert all(math.isfinite(reward(one)) for one in self.measurements())

    def test_it_depends_on_the_measurement_alone(self) -> None:
        """The same measurement has the same reward, and is not changed."""
        reward = self._reward()
        measurements = list(self.measurements())
        before = copy.deepcopy(measurements)
        values = [reward(one) for one in measurements]
        assert [reward(one) for one in reversed(measurements)] == values[::-1]
        for one in measurements:
            reward.function(one)  # not a copy, which `NamedReward` would make
        assert measurements == before

    def test_better_scores_are_not_worse(self) -> None:
        """At the same costs, better scores never have a smaller reward."""
        reward = self._reward()
        for one in self.measurements():
            assert reward(replace(one, scores=_better(one.scores))) >= reward(one)

    def test_lower_costs_are_not_worse(self) -> None:
        """With the same scores, lower costs never have a smaller reward."""
        reward = self._reward()
        for one in self.measurements():
            costs = {name: cost / 2 for name, cost in one.costs.items()}
            assert reward(replace(one, costs=costs)) >= reward(one)

    def _reward(self) -> NamedReward:
        return find_reward(self.make())


def measurement(scores: Scores, scale: float = 1.0) -> Measurement:
    """Return the measurement of a network with scaled costs."""
    costs = {name: scale * cost for name, cost in COSTS.items()}
    return Measurement((3,), ("a",), scores, Scores(top1=1.0, samples=100), costs, COSTS, {})


def _better(scores: Scores) -> Scores:
    """Return scores that are better in everything known."""

    def lower(value: float | None) -> float | None:
        return None if value is None else value / 2

    return replace(
        scores,
        kl=lower(scores.kl),
        soft_kl=lower(scores.soft_kl),
        loss=lower(scores.loss),
        top1=None if scores.top1 is None else (scores.top1 + 1) / 2,
        custom=None if scores.custom is None else scores.custom + 1,
    )
