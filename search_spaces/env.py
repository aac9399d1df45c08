"""The layer-by-layer episode as a Gymnasium environment, for any RL algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from jaxtyping import Float, Float32

from autoprune.core.policy import Widths
from autoprune.search_spaces.episode import FEATURES, Episode

Observation: TypeAlias = Float32[np.ndarray, " features"]
Action: TypeAlias = Float[np.ndarray, " 1"]


class PruningEnv(gymnasium.Env[Observation, Action]):
    """One episode decides every group's keep ratio; only the last step is rewarded.

    Observations are features in [0, 1] (`episode` has their table), actions one keep ratio in
    [0, 1]. The executed ratio, rounded and within the feasible range, is in `info["ratio"]`; after
    the last step `info["widths"]` holds the widths that were valued.
    """

    def __init__(self, episode: Episode, value: Callable[[Widths], float]) -> None:
        """Take the rules and the reward of finished widths."""
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._episode = episode
        self._value = value
        self._decided: Widths = ()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin with the first group."""
        super().reset(seed=seed)
        self._decided = ()
        return self._observe(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide the next group."""
        self._decided = self._episode.execute(self._decided, float(action.item()))
        group = len(self._decided) - 1
        info: dict[str, Any] = {"ratio": self._episode.ratio(group, self._decided[group])}
        if len(self._decided) < len(self._episode):
            return self._observe(), 0.0, False, False, info
        info["widths"] = self._episode.finish(self._decided)
        last = np.ones(len(FEATURES), np.float32)
        return last, float(self._value(info["widths"])), True, False, info

    def _observe(self) -> Observation:
        return self._episode.observe(self._decided).astype(np.float32)
