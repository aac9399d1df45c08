"""Options of AMC's agent."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.agents.config import Count, Positive, Share


@dataclass(frozen=True)
class DdpgConfig:
    """Options of the agent, its networks and its replay buffer.

    Attributes:
        agent: the run directory or file of a pretrained agent to go on from.
        first_spread: of the exploration at the first trial, in keep ratios.
        last_spread: the same at the last trial.
        pretrained_spread: the first spread of a pretrained agent, which is nearer to what it knows.
        warm_up: share of the trials before anything is learnt from them.
        updates: of actor and critic after each episode. A fifth of 60 learnt nothing in 300
            episodes.
        batch: decisions in one update.
        greedy_every: one trial in this many is the actor's own choice, without noise.
        most_repeats: episodes in a row that may end at known widths.
        widening: factor on the exploration for each of these.
        teaching_steps: of gradient descent with which an actor is fitted to episodes.
        teaching_rate: learning rate of these.
        trust: how far a pretrained agent may go from the plan, as the logarithm of a keep ratio.
        taught: share of the episodes that the saved agent is taught.
        blur: spread of the noise on what it observes then: it must not overfit to one network.
        hidden: units of the hidden layers of actor and critic.
        critic_rate: learning rate of the critic.
        actor_rate: learning rate of the actor.
        target_rate: share by which the target networks follow in each update.
        memory: decisions that are remembered; more than any search makes.
        averaging: weight of the newest episode in the moving reward baseline (AMC's is 0.05).
        furthest: distance from the baseline, in spreads, to which rewards are clipped: one ruined
            network must not decide the critic's scale.
    """

    agent: str | None = None
    first_spread: Positive = 0.2
    last_spread: Positive = 0.02
    pretrained_spread: Positive = 0.08
    warm_up: Share = 0.05
    updates: Count = 60
    batch: Count = 64
    greedy_every: Count = 10
    most_repeats: Count = 40
    widening: Positive = 1.2
    teaching_steps: Count = 300
    teaching_rate: Positive = 3e-3
    trust: Positive = 0.3
    taught: Share = 0.1
    blur: Share = 0.05
    hidden: tuple[Count, ...] = (64, 64)
    critic_rate: Positive = 1e-3
    actor_rate: Positive = 1e-4
    target_rate: Share = 0.01
    memory: Count = 100_000
    averaging: Share = 0.05
    furthest: Positive = 3.0
