"""Local search at the budget: units are swapped between groups by calibrated loss curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprune.agents.base import SearchProblem
from autoprune.agents.tools.swapping import SwappingConfig, SwappingStrategy
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.core.policy import Widths
from autoprune.study.trial import Candidate

if TYPE_CHECKING:
    from autoprune.agents.ddpg.agent import DdpgStrategy


@dataclass(frozen=True)
class LocalSearchConfig(SwappingConfig):
    """Options of the local search.

    Attributes:
        agent: the run directory or file of a pretrained agent whose candidate is measured first.
    """

    agent: str | None = None


class LocalSearchStrategy(SwappingStrategy):
    """Swaps from the best start on.

    Starts are the known warm starts and, if there is a pretrained agent, what it would do at once.
    """

    name = "local"
    config = LocalSearchConfig()

    def check(self) -> None:
        """Refuse an agent that is missing, damaged or does not fit.

        Raises:
            RunError: with the reason.
        """
        if self.config.agent is not None:
            _ddpg(self.config.agent).check()

    def start(self, problem: SearchProblem) -> None:
        """Ask the pretrained agent, if there is one."""
        super().start(problem)
        self._advice = [] if self.config.agent is None else self._advised(self.config.agent)

    def batches(self) -> Iterator[Iterable[Candidate]]:
        """Yield the starts, then swaps."""
        starts = self._advice + warm_starts(self.problem)
        yield map(Candidate, starts)
        yield from self._refine(starts[0])

    def _advised(self, agent: str) -> list[Widths]:
        """Return what a pretrained agent would do at once."""
        advisor = _ddpg(agent).started(self.problem)
        self.agent_from = advisor.agent_from
        advice = advisor.ask()
        assert advice is not None  # a pretrained agent begins with what it would do itself
        return [advice.widths]


def _ddpg(agent: str) -> DdpgStrategy:
    """Import the agent where it is wanted: it brings Stable-Baselines3 along."""
    from autoprune.agents.ddpg.agent import DdpgStrategy

    return DdpgStrategy(agent=agent)
