"""AMC's strategy: episodes of a DDPG actor that learns from what was executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from autoprune.agents.ddpg.exploration import TruncatedNormal
from autoprune.agents.ddpg.files import AgentInfo, load_agent, save_agent
from autoprune.agents.ddpg.networks import HIDDEN, HIGH, LOW, make_ddpg
from autoprune.agents.ddpg.replay import EpisodeReplay
from autoprune.agents.global_ranking import warm_starts
from autoprune.policy import Widths
from autoprune.search_spaces.episode import Step
from autoprune.strategy import Candidate, SearchProblem, Strategy, Trial

# Spread of the exploration at the first and the last trial, in keep ratios.
FIRST_SPREAD, LAST_SPREAD = 0.2, 0.02
# An agent that learnt elsewhere begins nearer to what it knows.
REUSED_SPREAD = 0.08
# Share of the trials before anything is learnt from them.
WARM_UP = 0.05
BATCH = 64
# Updates of actor and critic after each episode. A fifth of that learnt nothing in 300 episodes.
UPDATES = 60
# One trial in so many is what the actor itself would do.
GREEDY_EVERY = 10
# Episodes in a row that may end at known widths, each with more noise than the one before.
MOST_FOLDED = 40
WIDENING = 1.2
CLONING_STEPS, CLONING_RATE = 300, 3e-3


class DdpgStrategy(Strategy):
    """Decides group after group with a DDPG actor (He et al. 2018; Lillicrap et al. 2016).

    The first episodes are the known warm starts, and the actor begins as a clone of the better one;
    then it explores around itself with a spread that decays until the last trial. What is stored is
    the executed episode: walked again with the widths that were evaluated, after rounding, wall and
    the spending of what was left of the budget. An agent that learnt before shows what it does
    first, at once; it stays what it is unless a warm start is better.
    """

    name: ClassVar[str] = "ddpg"
    options: ClassVar[tuple[str, ...]] = ("agent",)
    needs_budget: ClassVar[bool] = False

    def __init__(self, problem: SearchProblem, agent: str | None = None) -> None:
        super().__init__(problem)
        self._episode = problem.episode()
        self._model = make_ddpg(self._episode, problem.seed)
        self._before = self._load(agent) if agent else None
        first = FIRST_SPREAD if self._before is None else REUSED_SPREAD
        self._noise = TruncatedNormal(first, LAST_SPREAD, problem.trials, problem.seed)
        self._warm_starts = warm_starts(problem)
        if self._before is not None:
            self._warm_starts = list(dict.fromkeys([self._play(0.0), *self._warm_starts]))
        self._own = None if self._before is None else self._warm_starts[0]
        self._values: dict[Widths, float | None] = {}
        self._is_cloned = False

    @classmethod
    def check_options(cls, agent: str | None = None, **options: Any) -> None:
        """Refuse an agent that is missing, damaged or does not fit.

        Raises:
            RunError: with the reason.
        """
        super().check_options(**options)
        if agent is not None:
            load_agent(Path(agent), HIDDEN)

    def ask(self) -> Candidate | None:
        """Return a warm start, or an episode that ends at new widths."""
        if self._warm_starts:
            return Candidate(self._warm_starts.pop(0))
        self._clone_the_best()
        greedy = self._play(0.0)
        number = len(self._values)
        if greedy not in self._values and number % GREEDY_EVERY == 0:
            return Candidate(greedy)
        spread = self._noise.spread(number)
        for attempt in range(MOST_FOLDED):
            widths = self._play(spread * WIDENING**attempt)
            if widths not in self._values:
                return Candidate(widths)
        return None

    def tell(self, trial: Trial) -> None:
        """Store the executed episode and learn."""
        widths, value = trial.candidate.widths, trial.value
        self._values[widths] = value
        if value is None:
            return
        steps = self._episode.walk(widths)
        replay = self._model.replay_buffer
        assert isinstance(replay, EpisodeReplay)
        replay.add_episode(steps, value)
        if len(self._values) > WARM_UP * self.problem.trials:
            self._model.train(UPDATES, BATCH)

    def save(self, folder: Path) -> bool:
        """Write actor and critic."""
        before = self._before or AgentInfo(HIDDEN, 0, ())
        groups = (*before.networks, len(self.problem.space))
        info = AgentInfo(HIDDEN, before.episodes + len(self._values), groups)
        save_agent(folder, info, self._model.policy.state_dict())
        return True

    def _play(self, spread: float) -> Widths:
        """Return where an episode ends."""
        decided: Widths = ()
        while len(decided) < len(self._episode):
            seen = self._episode.observe(decided)
            ratio = self._act(seen)
            if spread > 0:
                ratio = self._noise.draw(ratio, float(seen[LOW]), float(seen[HIGH]), spread)
            decided = self._episode.execute(decided, ratio)
        return self._episode.finish(decided)

    def _act(self, observation: np.ndarray[Any, Any]) -> float:
        with torch.no_grad():
            seen = torch.as_tensor(observation[None], dtype=torch.float32)
            return (float(self._model.actor(seen)) + 1) / 2

    def _clone_the_best(self) -> None:
        """Let the actor begin as the best of the warm starts, before it first explores."""
        if self._is_cloned:
            return
        self._is_cloned = True
        valued = {w: v for w, v in self._values.items() if v is not None}
        if valued:
            best = max(valued, key=lambda widths: valued[widths])
            if best != self._own:
                _clone(self._model, self._episode.walk(best))

    def _load(self, agent: str) -> AgentInfo:
        shapes = {name: t.shape for name, t in self._model.policy.state_dict().items()}
        info, tensors = load_agent(Path(agent), HIDDEN, shapes)
        self._model.policy.load_state_dict(tensors)
        self.agent_from = {
            "path": agent,
            "networks": list(info.networks),
            "episodes": info.episodes,
        }
        return info


def _clone(model: Any, steps: Sequence[Step]) -> None:
    """Fit the actor to the ratios of one episode."""
    seen = torch.tensor(np.array([step.observation for step in steps]), dtype=torch.float32)
    wanted = torch.tensor([[2 * step.ratio - 1] for step in steps], dtype=torch.float32)
    optimizer = torch.optim.Adam(model.actor.parameters(), CLONING_RATE)
    for _ in range(CLONING_STEPS):
        loss = (model.actor(seen) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.actor_target.load_state_dict(model.actor.state_dict())
