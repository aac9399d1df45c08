"""The replay buffer: executed decisions of whole episodes, rewards beside a moving baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from autoprune.agents.ddpg.config import DdpgConfig
from autoprune.search_spaces.episode import Step


class EpisodeReplay(ReplayBuffer):
    """Stores the return of the episode with every decision.

    All reward comes at the end and nothing is discounted, so that the return is known exactly: it
    is the target of every step, and nothing has to creep back through some 30 bootstrapped steps
    in a few hundred episodes. (SB3 sees every decision as the last one of an episode.)

    Rewards are kept raw; the moving baseline (AMC, section 3.2) and spread are applied when a batch
    is drawn, so that old episodes are valued by what is known now.
    """

    def __init__(self, *args: Any, draw_seed: int, config: DdpgConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # SB3's own sampling takes numpy's global generator.
        self._random = np.random.default_rng(draw_seed)
        self._averaging, self._furthest = config.averaging, config.furthest
        self._mean = math.nan
        self._spread = math.nan

    def add_episode(self, steps: Sequence[Step], reward: float) -> None:
        """Store an episode of executed decisions."""
        if math.isnan(self._mean):
            self._mean, self._spread = reward, 0.0
        else:
            off = abs(reward - self._mean)
            self._spread = off if self._spread == 0.0 else self._moved(self._spread, off)
            self._mean = self._moved(self._mean, reward)
        for step in steps:
            observation = step.observation[None]
            action = np.array([[2 * step.ratio - 1]])  # SB3's actors speak [-1, 1]
            self.add(observation, observation, action, np.array([reward]), np.array([True]), [{}])

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Return a batch with its rewards in spreads above the baseline."""
        batch = self._get_samples(self._random.integers(0, self.size(), batch_size), env)
        scale = self._spread if self._spread > 0 else 1.0
        rewards = torch.clamp((batch.rewards - self._mean) / scale, -self._furthest, self._furthest)
        return batch._replace(rewards=rewards)

    def _moved(self, average: float, value: float) -> float:
        return (1 - self._averaging) * average + self._averaging * value
