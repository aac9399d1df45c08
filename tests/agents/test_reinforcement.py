"""Stable-Baselines3's algorithms as strategies: their thread, their randomness, their failures."""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.agents.registry import make_strategy
from autoprune.agents.reinforcement import PpoStrategy, Td3Strategy
from autoprune.errors import AutopruneError
from autoprune.study.trial import Trial


def test_global_randomness_is_left_alone(make_toy: Any, play: Any) -> None:
    drawn, asked = [], []
    for disturbed in (False, True):
        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        if disturbed:
            torch.rand(5), np.random.rand(5), random.random()
        strategy = Td3Strategy().started(make_toy([12, 7, 9]).problem)
        asked.append([t.candidate.widths for t in play(strategy, lambda w: -float(sum(w)), 5)])
        if not disturbed:
            drawn = [random.random(), np.random.rand(), float(torch.rand(()))]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    assert drawn == [random.random(), np.random.rand(), float(torch.rand(()))]
    assert asked[0] == asked[1]


def test_the_thread_ends_with_the_strategy(make_toy: Any, play: Any) -> None:
    strategy = PpoStrategy().started(make_toy([12, 7, 9]).problem)
    play(strategy, lambda widths: -1.0, 3)
    thread = strategy._thread
    assert thread.is_alive()
    del strategy
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_an_algorithm_that_fails_says_so(make_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(self: Any, steps: int) -> None:
        raise ValueError("its weights are nan")

    monkeypatch.setattr("stable_baselines3.TD3.learn", learn)
    with pytest.raises(AutopruneError, match="rl:td3 failed: ValueError: its weights are nan"):
        make_strategy("rl:td3", make_toy([12, 7]).problem).ask()


def test_what_failed_is_never_worth_more_than_what_did_not(make_toy: Any) -> None:
    strategy, failed = Td3Strategy().started(make_toy([12, 7, 9]).problem), None
    for value in (None, -2.0, -1.0, None, -5.0):
        candidate = strategy.ask()
        assert candidate is not None
        strategy.tell(Trial(candidate, value))
        if value is None:
            failed = candidate.widths
            assert strategy._answer == (-1.0 if len(strategy._values) == 1 else 0.0)
        else:
            assert strategy._answer == value + 2.0
    assert failed is not None and strategy._reward(failed) == -3.0


def test_an_algorithm_that_has_made_up_its_mind_is_done(make_toy: Any) -> None:
    """Known widths are answered by the strategy, so often and no oftener."""
    toy = make_toy([2, 2], keep=1.0)
    strategy, asked = PpoStrategy().started(toy.problem), []
    while (candidate := strategy.ask()) is not None:
        asked.append(candidate.widths)
        strategy.tell(Trial(candidate, -1.0))
        assert len(asked) < strategy.config.most_repeats
    assert len(set(asked)) == len(asked)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rl:ppo", "rl:sac", "rl:td3"])
def test_it_learns(name: str, make_toy: Any, play: Any) -> None:
    """What is asked late is worth more than what is asked first."""
    toy = make_toy([12, 8, 10, 12], trials=200)
    values = [t.value for t in play(make_strategy(name, toy.problem), toy.value, 200)]
    assert np.mean(values[-40:]) > np.mean(values[:20])
