"""AMC's strategy: episodes of a DDPG actor that learns from what was executed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.agents.base import SearchProblem, Strategy, best_first
from autoprune.agents.ddpg.config import DdpgConfig
from autoprune.agents.ddpg.exploration import TruncatedNormal
from autoprune.agents.ddpg.networks import HIGH, LOW, PLANNED, FeasibleActor, make_ddpg
from autoprune.agents.ddpg.replay_buffer import EpisodeReplay
from autoprune.agents.ddpg.storage import AgentInfo, load_agent, save_agent
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.search_spaces.episode import Step
from autoprune.study.trial import Candidate, Trial


class DdpgStrategy(Strategy):
    """Decides group after group with a DDPG actor (He et al. 2018; Lillicrap et al. 2016).

    The first episodes are the known warm starts, and the actor begins as a clone of the better one;
    then it explores around itself with a spread that decays until the last trial. What is stored is
    the executed episode: walked again with the widths that were evaluated, rounded, within the
    feasible range, and with what was left of the budget spent.

    A pretrained agent first proposes what it does at once, near the plan of least loss: further
    away it has only learnt its own network. What is saved for other networks is an actor that was
    taught the best episodes (self-imitation, Oh et al. 2018): the one that searched has followed
    its critic.

    Of several candidates at once, as many episodes are played by the actor as it is, and learnt
    from once all of them are told; the warm starts come before the first of these.
    """

    name = "ddpg"
    needs_budget = False
    config = DdpgConfig()

    def check(self) -> None:
        """Refuse an agent that is missing, damaged or does not fit.

        Raises:
            RunError: with the reason.
        """
        if self.config.agent is not None:
            load_agent(Path(self.config.agent), self.config.hidden)

    def start(self, problem: SearchProblem) -> None:
        """Begin as the pretrained agent, or untrained.

        Raises:
            RunError: the pretrained agent does not fit.
        """
        own = self.config
        self._episode = problem.episode()
        self._model = make_ddpg(self._episode, problem.seed, own)
        self._before = self._load(own.agent) if own.agent else None
        self._learnt_before = {k: v.clone() for k, v in self._model.actor.state_dict().items()}
        first = own.first_spread if self._before is None else own.pretrained_spread
        self._noise = TruncatedNormal(first, own.last_spread, problem.trials, problem.seed)
        self._warm_starts = warm_starts(problem)
        if self._before is not None:
            advice = self._play(0.0, own.trust)
            self._warm_starts = list(dict.fromkeys([advice, *self._warm_starts]))
        self._values: dict[Widths, float | None] = {}
        self._untold: set[Widths] = set()
        self._is_cloned = False

    def ask(self) -> Candidate | None:
        """Return a warm start, or an episode that ends at new widths."""
        if (widths := self._next()) is None:
            return None
        self._untold.add(widths)
        is_last_warm_start = not (self._warm_starts or self._is_cloned)
        awaited = is_last_warm_start or len(self._untold) == self.problem.at_once
        return Candidate(widths, awaited=awaited)

    def _next(self) -> Widths | None:
        if self._warm_starts:
            return self._warm_starts.pop(0)
        self._clone_the_best()
        greedy, known = self._play(0.0), {*self._values, *self._untold}
        if greedy not in known and len(known) % self.config.greedy_every == 0:
            return greedy
        spread = self._noise.spread(len(known))
        for attempt in range(self.config.most_repeats):
            widths = self._play(spread * self.config.widening**attempt)
            if widths not in known:
                return widths
        return None

    def tell(self, trial: Trial) -> None:
        """Store the executed episode and learn."""
        widths, value = trial.candidate.widths, trial.value
        self._untold.discard(widths)
        self._values[widths] = value
        if value is None:
            return
        steps = self._episode.walk(widths)
        replay = self._model.replay_buffer
        assert isinstance(replay, EpisodeReplay)
        replay.add_episode(steps, value)
        if len(self._values) > self.config.warm_up * self.problem.trials:
            self._model.train(self.config.updates, self.config.batch)

    def save(self, folder: Path) -> bool:
        """Write critic and actor, which is taught the best episodes."""
        own = self.config
        before = self._before or AgentInfo(own.hidden, 0, ())
        groups = (*before.networks, len(self.problem.space))
        info = AgentInfo(own.hidden, before.episodes + len(self._values), groups)
        ranked = best_first(self._values)
        actor = self._taught(ranked[: max(round(own.taught * len(ranked)), 1)], own.blur)
        nets = ("actor", "actor_target")
        named = {f"{net}.{name}": tensor for net in nets for name, tensor in actor.items()}
        save_agent(folder, info, {**self._model.policy.state_dict(), **named})
        return True

    def _taught(self, best: Sequence[Widths], blur: float = 0.0) -> dict[str, torch.Tensor]:
        """Return the tensors of an actor that was taught to decide as these did.

        It begins with what it was before this search: what it became has followed the critic.

        Args:
            best: widths that were executed.
            blur: spread of the noise on what it observes.
        """
        actor = make_ddpg(self._episode, self.problem.seed, self.config).actor
        assert isinstance(actor, FeasibleActor)
        actor.load_state_dict(self._learnt_before)
        steps = [step for widths in best for step in self._episode.walk(widths)]
        if steps:
            self._teach(actor, steps, blur)
        taught: dict[str, torch.Tensor] = actor.state_dict()
        return taught

    def _play(self, spread: float, trust: float = math.inf) -> Widths:
        """Return where an episode ends that goes no further from the plan than it is trusted."""
        decided: Widths = ()
        while len(decided) < len(self._episode):
            seen = self._episode.observe(decided)
            near = seen[PLANNED] * np.exp([-trust, trust])
            ratio = float(np.clip(self._act(seen), *near))
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
        if best := best_first(self._values)[:1]:
            taught = self._taught(best)
            for actor in (self._model.actor, self._model.actor_target):
                actor.load_state_dict(taught)

    def _load(self, agent: str) -> AgentInfo:
        shapes = {name: t.shape for name, t in self._model.policy.state_dict().items()}
        info, tensors = load_agent(Path(agent), self.config.hidden, shapes)
        self._model.policy.load_state_dict(tensors)
        self.agent_from = {
            "path": agent,
            "networks": list(info.networks),
            "episodes": info.episodes,
        }
        return info

    def _teach(self, actor: FeasibleActor, steps: Sequence[Step], blur: float) -> None:
        """Fit an actor to executed ratios, with noise of spread `blur` on its observations."""
        own = self.config
        seen = torch.tensor(np.array([step.observation for step in steps]), dtype=torch.float32)
        wanted = torch.tensor([[2 * step.ratio - 1] for step in steps], dtype=torch.float32)
        optimizer = torch.optim.Adam(actor.parameters(), own.teaching_rate)
        random = torch.Generator().manual_seed(self.problem.seed)
        for _ in range(own.teaching_steps):
            noise = blur * torch.randn(seen.shape, generator=random)
            done = actor.corrected(actor.correction(seen + noise), seen)
            loss = (done - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
