"""What is known of a search before its first stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from autoprune.core.progress import Progress
from autoprune.data import Partition
from autoprune.data.forms import Inputs
from autoprune.engine.clock import Clock
from autoprune.engine.limits import StageLimits
from autoprune.engine.ray_cluster import Cluster
from autoprune.evaluation.reward import DEFAULT_REWARD, NamedReward, find_reward
from autoprune.options.search import SearchConfig
from autoprune.structure.output_distance import Distance
from autoprune.study.run_directory import RunDirectory

Evaluate: TypeAlias = Callable[[nn.Module], float]
"""The user's own score of a network; higher is better."""


def _unlimited() -> Clock:
    return Clock(time.monotonic())


def _default_reward() -> NamedReward:
    return find_reward(DEFAULT_REWARD)


@dataclass(frozen=True, eq=False)
class SearchContext:
    """What every stage of a search is given.

    Attributes:
        model: the dense network, in evaluation mode.
        inputs: a batch of example inputs on its device.
        images: calibration, search, selection and test images.
        config: the options.
        run: the run directory.
        reward: the value of a measurement.
        evaluate: the user's own score; None where outputs are compared with the dense network's.
        distance: the user's own distance of outputs from the dense network's; None where class
            scores are compared by KL, other outputs by squared errors.
        begun: the settings that a resumed run was begun with; empty for a new run.
        clock: the time that stages take, and the deadlines.
        progress: told how far the stages are.
        starts: widths by group, of another run, that the search begins at.
        cluster: that candidates are evaluated on; None in this process.
    """

    model: nn.Module
    inputs: Inputs
    images: Partition
    config: SearchConfig
    run: RunDirectory
    reward: NamedReward = field(default_factory=_default_reward)
    evaluate: Evaluate | None = None
    distance: Distance | None = None
    begun: Mapping[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=_unlimited)
    progress: Progress = field(default_factory=Progress)
    starts: tuple[Mapping[str, int], ...] = ()
    cluster: Cluster | None = None

    @property
    def workers(self) -> int:
        """Candidates that are evaluated at once."""
        return self.config.workers or 1

    @property
    def at_once(self) -> int:
        """Candidates that are on their way at once; what is found depends on it."""
        return self.config.at_once or self.workers

    @property
    def sharing(self) -> int:
        """Finalists that may be repaired at once in the memory of one device."""
        return 1 if self.cluster is None else min(self.at_once, self.cluster.sharing)

    def step(self, stage: str) -> Callable[[int, int], None]:
        """Return what to tell how many parts of a stage are done, of how many."""
        return lambda done, total: self.progress.step(stage, done, total)

    @property
    def limits(self) -> StageLimits:
        """Tuning constants of the stages."""
        return StageLimits.from_mapping(self.config.engine)
