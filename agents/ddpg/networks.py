"""SB3's DDPG with an actor that keeps to the feasible range, and a learning rate of its own."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor

from autoprune.agents.ddpg.config import DdpgConfig
from autoprune.agents.ddpg.replay_buffer import EpisodeReplay
from autoprune.core.randomness import OwnRandomness
from autoprune.search_spaces.env import PruningEnv
from autoprune.search_spaces.episode import FEATURES, Episode

# How far from the ends of the feasible range an idle actor keeps, as a share of that range: at the
# very end a correction would change nothing, and nothing would be learnt from it.
MARGIN = 0.02

LOW, HIGH, PLANNED = (FEATURES.index(name) for name in ("low", "high", "planned"))


class FeasibleActor(Actor):
    """An actor whose actions are feasible by construction, and on the plan if it is idle.

    The critic only ever sees executed actions: an actor that could leave the feasible range would
    follow the critic's guesses out there, and every episode would end in a corner. What the
    networks learn are corrections of the plan of least expected loss: other networks have other
    plans, but what is wrong with them is alike.
    """

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions (samples, 1) as SB3 has them, in [-1, 1]."""
        return self.corrected(self.correction(obs), obs)

    def correction(self, obs: Tensor) -> Tensor:
        """Return (samples, 1) from -1, the low end of the feasible range, to 1, the high one."""
        return super().forward(obs)

    @staticmethod
    def corrected(correction: Tensor, obs: Tensor) -> Tensor:
        """Return the actions (samples, 1) of corrections; 0 is the plan."""
        low, high, planned = (obs[:, i : i + 1] for i in (LOW, HIGH, PLANNED))
        margin = MARGIN * (high - low)
        planned = planned.maximum(low + margin).minimum(high - margin)
        room = torch.where(correction < 0, planned - low, high - planned)
        return 2 * (planned + correction * room) - 1


class FeasiblePolicy(TD3Policy):
    """SB3's networks with such an actor."""

    def make_actor(self, features_extractor: Any = None) -> Actor:
        """Return the actor."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return FeasibleActor(**kwargs).to(self.device)


class TwoRateDdpg(DDPG):
    """DDPG whose actor learns more slowly than its critic (SB3 has one rate for both)."""

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Leave the optimizers the rates that they were made with."""


def make_ddpg(episode: Episode, seed: int, config: DdpgConfig) -> TwoRateDdpg:
    """Return an untrained model; global random states stay as they are."""
    with OwnRandomness().lent():  # SB3 seeds every global generator
        model = TwoRateDdpg(
            FeasiblePolicy,
            PruningEnv(episode, lambda widths: 0.0),  # the strategy plays the episodes itself
            learning_rate=config.critic_rate,
            gamma=1.0,
            tau=config.target_rate,
            buffer_size=config.memory,
            replay_buffer_class=EpisodeReplay,
            replay_buffer_kwargs={"draw_seed": seed, "config": config},
            policy_kwargs={"net_arch": list(config.hidden)},
            seed=seed,
            device="cpu",
        )
    for group in model.actor.optimizer.param_groups:
        group["lr"] = config.actor_rate
    model.set_logger(Logger(None, []))
    return model
