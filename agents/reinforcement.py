"""Stable-Baselines3's algorithms as they come, on the same episodes as AMC's agent.

An algorithm calls its environment, whereas a strategy is asked. So the algorithm learns in a
thread of its own that runs only while the strategy is asked: it hands over the widths at the end of
an episode, and waits until the strategy is asked again.
"""

from __future__ import annotations

import math
import threading
import weakref
from abc import abstractmethod
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from autoprune.agents.base import SearchProblem, Strategy
from autoprune.agents.config import Count, Positive, Share
from autoprune.core.policy import Widths
from autoprune.core.randomness import OwnRandomness
from autoprune.errors import AutopruneError, first_line
from autoprune.search_spaces.env import PruningEnv
from autoprune.study.trial import Candidate, Trial

# Reward of what fails before anything succeeds.
FAILED = -1.0
# More than any search makes.
_STEPS = 10**9


@dataclass(frozen=True)
class ReinforcementConfig:
    """Options of all algorithms.

    Attributes:
        hidden: units of the hidden layers.
        most_repeats: episodes in a row that may end at known widths before an algorithm counts as
            converged.
    """

    hidden: tuple[Count, ...] = (64, 64)
    most_repeats: Count = 40


@dataclass(frozen=True)
class PpoConfig(ReinforcementConfig):
    """Options of PPO.

    Attributes:
        rollout: episodes before each update.
    """

    rollout: Count = 4


@dataclass(frozen=True)
class OffPolicyConfig(ReinforcementConfig):
    """Options of algorithms that learn from a replay buffer.

    Attributes:
        updates: after each episode, as many as of AMC's agent.
        batch: decisions in one update.
        memory: decisions that are remembered.
        warm_up: share of the trials that are random.
    """

    updates: Count = 60
    batch: Count = 64
    memory: Count = 100_000
    warm_up: Share = 0.1


@dataclass(frozen=True)
class Td3Config(OffPolicyConfig):
    """Options of TD3.

    Attributes:
        spread: of the exploration after the warm-up; actions are from -1 to 1.
    """

    spread: Positive = 0.5


class _Over(Exception):
    """The strategy is gone."""


class _Line:
    """Carries widths from the learning thread to the strategy, and their values back."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[Widths | Exception] = SimpleQueue()
        self.told: SimpleQueue[float | None] = SimpleQueue()

    def value(self, widths: Widths) -> float:
        """Ask for a value, and wait for it."""
        self.asked.put(widths)
        value = self.told.get()
        if value is None:
            raise _Over
        return value


class ReinforcementStrategy(Strategy):
    """Proposes the widths that the episodes of one algorithm end at.

    The algorithm learns from the actions that it chose, not from what the feasible range made of
    them: it is a reference for `ddpg`, and an example of how an algorithm is connected to the
    search. The reward is the gain over the first value, divided by the running spread. A failed
    trial counts as the worst so far.
    """

    needs_budget = False
    config = ReinforcementConfig()

    def start(self, problem: SearchProblem) -> None:
        """Prepare the algorithm; it learns from the first `ask` on."""
        self._line = _Line()
        self._values: dict[Widths, float | None] = {}
        self._answer: float | None = None
        self._randomness = OwnRandomness()
        episode = problem.episode()
        env = PruningEnv(episode, self._line.value)
        with self._randomness.lent():
            model = self._model(_scaled(env), len(episode))
        model.set_logger(Logger(None, []))
        self._thread = threading.Thread(target=_learn, args=(model, self._line), daemon=True)
        weakref.finalize(self, self._line.told.put, None)

    @abstractmethod
    def _model(self, env: VecEnv, groups: int) -> BaseAlgorithm:
        """Return the untrained algorithm; an episode has a step for each group."""

    def ask(self) -> Candidate | None:
        """Let the algorithm learn until an episode ends at new widths.

        Raises:
            AutopruneError: it failed.
        """
        for _ in range(self.config.most_repeats):
            widths = self._next()
            if widths not in self._values:
                return Candidate(widths)
            self._answer = self._reward(widths)
        return None

    def tell(self, trial: Trial) -> None:
        """Keep the value until the algorithm runs again."""
        self._values[trial.candidate.widths] = trial.value
        self._answer = self._reward(trial.candidate.widths)

    def _reward(self, widths: Widths) -> float:
        """Return the gain over the first value; the worst so far for what failed."""
        known = [value for value in self._values.values() if value is not None]
        if not known:
            return FAILED
        value = self._values[widths]
        return (min(known) if value is None else value) - known[0]

    def _next(self) -> Widths:
        with self._randomness.lent():
            if self._answer is None:
                self._thread.start()
            else:
                self._line.told.put(self._answer)
            found = self._line.asked.get()
        if isinstance(found, Exception):
            reason = f"{type(found).__name__}: {first_line(found)}"
            raise AutopruneError(f"{self.name} failed: {reason}") from found
        return found


class PpoStrategy(ReinforcementStrategy):
    """Proximal policy optimization (Schulman et al. 2017)."""

    name = "rl:ppo"
    config = PpoConfig()

    def _model(self, env: VecEnv, groups: int) -> BaseAlgorithm:
        steps = self.config.rollout * groups
        return PPO(
            "MlpPolicy", env, n_steps=steps, batch_size=steps, **_common(self.problem, self.config)
        )


class SacStrategy(ReinforcementStrategy):
    """Soft actor-critic (Haarnoja et al. 2018)."""

    name = "rl:sac"
    config = OffPolicyConfig()

    def _model(self, env: VecEnv, groups: int) -> BaseAlgorithm:
        return SAC("MlpPolicy", env, **_off_policy(self.problem, self.config))


class Td3Strategy(ReinforcementStrategy):
    """Twin delayed DDPG (Fujimoto et al. 2018)."""

    name = "rl:td3"
    config = Td3Config()

    def _model(self, env: VecEnv, groups: int) -> BaseAlgorithm:
        noise = NormalActionNoise(np.zeros(1), np.full(1, self.config.spread))
        return TD3("MlpPolicy", env, action_noise=noise, **_off_policy(self.problem, self.config))


def _common(problem: SearchProblem, config: ReinforcementConfig) -> dict[str, Any]:
    networks = {"net_arch": list(config.hidden)}
    return {"gamma": 1.0, "policy_kwargs": networks, "seed": problem.seed, "device": "cpu"}


def _off_policy(problem: SearchProblem, config: OffPolicyConfig) -> dict[str, Any]:
    return {
        **_common(problem, config),
        "buffer_size": config.memory,
        "batch_size": config.batch,
        "learning_starts": math.ceil(config.warm_up * problem.trials) * len(problem.space),
        "train_freq": (1, "episode"),
        "gradient_steps": config.updates,
    }


def _scaled(env: PruningEnv) -> VecEnv:
    """Return the environment with actions from -1 to 1 and rewards of about unit spread."""
    rescaled: gymnasium.Env[Any, Any] = gymnasium.wrappers.RescaleAction(
        env, np.float32(-1.0), np.float32(1.0)
    )
    return VecNormalize(DummyVecEnv([lambda: rescaled]), norm_obs=False, gamma=1.0)


def _learn(model: BaseAlgorithm, line: _Line) -> None:
    try:
        model.learn(_STEPS)
    except _Over:
        return
    except Exception as error:  # whatever it is, the strategy waits for an answer
        line.asked.put(error)
    else:
        line.asked.put(RuntimeError("it has stopped learning"))
