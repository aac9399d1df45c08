"""What a finished search says about itself: `result.json`, put together from all its parts."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.bench import Bench
from autoprune.config import SearchConfig
from autoprune.data import Partition
from autoprune.evaluation.scoring import score_split
from autoprune.evaluation.stopwatch import paired_latency_ms
from autoprune.session import Session
from autoprune.study.ledger import Ledger
from autoprune.study.result import LatencyFigures, Outcome, frontier, stage_seconds
from autoprune.task import Task
from autoprune.verification import Contest

# Where the seconds of all trials go; those of a session have stages of their own.
TRIAL_STAGES = ("surgery", "batchnorm", "scoring")


@dataclass(frozen=True, eq=False)
class Summary:
    """A search that is over.

    Attributes:
        model: the dense network.
        config: the options.
        images: of the search.
        task: what was searched.
        bench: who built and judged candidates.
        ledger: every trial of all sessions.
        contest: how the search went, and its winner.
        session: the time of this session, which still runs.
    """

    model: nn.Module
    config: SearchConfig
    images: Partition
    task: Task
    bench: Bench
    ledger: Ledger
    contest: Contest
    session: Session

    def report(self) -> dict[str, Any]:
        """Score the winner a last time, and return what goes into `result.json`."""
        config, outcome = self.config, self._outcome().report()
        return {
            "version": 1,
            "strategy": config.strategy,
            "budget": config.budget if self.task.projection.constraints else None,
            "reward": config.reward,
            "seed": config.seed,
            "agent_from": self.contest.strategy.agent_from,
            "judge": self.bench.judge_name,
            "reconstruction": self.contest.finalist.reconstruction,
            **outcome,
            "search": self._search(),
            "seconds": self._seconds(),
            "frontier": frontier(self.ledger),
        }

    def _outcome(self) -> Outcome:
        """Score on the test split (without one, or with the user's own score, as selected)."""
        small, chosen = self.contest.finalist.network, self.contest.finalist.measurement
        dense, pruned, split = chosen.dense, chosen.scores, "selection"
        if pruned.custom is not None:
            split = "user"
        if self.images.test is not None and pruned.custom is None:
            (dense, pruned), split = score_split(self.model, [small], self.images.test), "test"
        one = self.images.calibration.inputs[:1]
        return Outcome(
            winner=chosen,
            sizes=self.task.space.sizes,
            dense=dense,
            pruned=pruned,
            split=split,
            latency=self.contest.latency or _measured_here([self.model, small], one),
        )

    def _search(self) -> dict[str, Any]:
        """Return what all sessions took; what chose the judge and the winner counts too."""
        trials, took, spent = len(self.ledger), self.session.took, self.ledger.spent
        total = {key: spent.get(key, 0) + value for key, value in took.items()}
        return {
            "trials": trials,
            "evaluations": trials + int(total["evaluations"]),
            "image_forwards": trials * self.bench.forwards + int(total["image_forwards"]),
            "failed": self.contest.exploration.failed,
            "best_value": self.ledger.best(1)[0].value,
            "limits": {"trials": self.contest.strategy.problem.trials, "time": self.config.time},
            "signal_split": self.images.signal_split,
            "seconds": round(total["total"], 3),
        }

    def _seconds(self) -> dict[str, float | None]:
        """Return the seconds of all sessions by stage."""
        spent = self.ledger.spent
        return {
            **{stage: spent.get(stage, 0.0) + own for stage, own in self.session.seconds.items()},
            **dict.fromkeys(TRIAL_STAGES, 0.0),
            **stage_seconds(self.ledger),
            "recovery": None,
        }


def _measured_here(models: Sequence[nn.Module], inputs: Tensor) -> LatencyFigures:
    """Return latencies of eager PyTorch on the networks' own device."""
    measured = tuple(paired_latency_ms(models, inputs))
    return LatencyFigures("torch", _device_name(inputs.device), None, measured)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    plural = "s" if threads > 1 else ""
    return f"{platform.processor() or platform.machine()}, {threads} thread{plural}"
