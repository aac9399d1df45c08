"""What a finished search says about itself: `result.json`, put together from all its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from autoprune.core.progress import Progress
from autoprune.data import Partition
from autoprune.engine.clock import Session
from autoprune.engine.evaluators import Bench
from autoprune.engine.finalists import Finalist
from autoprune.engine.latency import measured_here
from autoprune.engine.max_drop import Smallest
from autoprune.engine.problem import Task
from autoprune.engine.recover import Recovered, Winner
from autoprune.engine.rounds import Contest
from autoprune.errors import AutopruneError, DataError, first_line, user_code
from autoprune.evaluation.scoring import score_split
from autoprune.options.search import SearchConfig
from autoprune.structure.surgery import deep_copy
from autoprune.study.ledger import Ledger
from autoprune.study.result import Outcome, frontier, stage_seconds

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
        winner: right after the cut, and recovered.
        session: the time of this session, which still runs.
        progress: told where the test split cannot be scored.
        trials: that the search might take.
        smallest: the bisection that the contest was a round of; None where there was a budget.
    """

    model: nn.Module
    config: SearchConfig
    images: Partition
    task: Task
    bench: Bench
    ledger: Ledger
    contest: Contest
    winner: Winner
    session: Session
    progress: Progress
    trials: int
    smallest: Smallest | None = None

    def report(self) -> dict[str, Any]:
        """Score the winner a last time, and return what goes into `result.json`."""
        config, outcome = self.config, self._outcome().report()
        return {
            "version": 1,
            "strategy": config.strategy_name,
            "searched_by": self.contest.strategy.name,
            "budget": self._budget(),
            "reward": config.reward,
            "seed": config.seed,
            "agent_from": self.contest.strategy.agent_from,
            "judge": self.bench.judge_name,
            "reconstruction": self.contest.finalist.reconstruction,
            **outcome,
            "search": self._search(),
            "seconds": self._seconds(),
            "frontier": frontier(self.ledger),
            "max_drop": None if self.smallest is None else self.smallest.report(),
        }

    def _budget(self) -> str | None:
        if self.smallest is not None:
            return self.smallest.budget
        return self.config.budget if self.task.projection.constraints else None

    def _outcome(self) -> Outcome:
        """Score on the test split; without one, or with the user's own score, as selected.

        The same where the test split turns out to be damaged: the search is not lost for that.
        """
        winner, chosen = self.winner, self.winner.finalist.measurement
        stages: list[Finalist | Recovered] = [winner.finalist]
        stages += [winner.recovered] if winner.recovered else []
        dense, split = chosen.dense, "selection"
        scores = [stage.measurement.scores for stage in stages]
        if chosen.scores.custom is not None:
            split = "user"
        elif self.images.test is not None:
            # Copies: what is handed over stays as it was written to the files.
            networks = [deep_copy(stage.network) for stage in stages]
            try:
                with user_code(DataError, passes=(AutopruneError,)):
                    dense, *scores = score_split(self.model, networks, self.images.test)
                split = "test"
            except AutopruneError as error:  # labels, values or files, first read here
                self.progress.note(
                    f"the test split cannot be scored: {first_line(error).rstrip('.')}; the scores "
                    "are those of the selection images"
                )
        one = self.images.calibration.first(1)
        networks = [self.model, deep_copy(winner.network)]
        return Outcome(
            winner=chosen,
            sizes=self.task.space.sizes,
            dense=dense,
            pruned=scores[0],
            recovered=scores[1] if winner.recovered else None,
            split=split,
            latency=self.contest.latency or measured_here(networks, one.inputs),
        )

    def _search(self) -> dict[str, Any]:
        """Return what all sessions took; what chose the judge and the winner counts too."""
        trials, took, spent = len(self.ledger), self.session.took, self.ledger.spent
        best = self.ledger.best(1, self.contest.strategy.problem.projection.fits)
        total = {key: spent.get(key, 0) + value for key, value in took.items()}
        forwards = sum(self.bench.forwards(trial.measurement) for trial in self.ledger)
        # A session that was killed has left the seconds of its trials alone, each its worker's.
        stages = {stage: spent or 0.0 for stage, spent in self._seconds().items()}
        of_trials = sum(stages.pop(stage, 0.0) for stage in TRIAL_STAGES)
        seconds = max(total["total"], sum(stages.values()) + of_trials / self.config.workers)
        return {
            "trials": trials,
            # What a race scores again is a trial already. A search that was killed does so once
            # more, which makes it more work (image_forwards) but no more evaluations.
            "evaluations": trials + int(total["evaluations"]),
            "image_forwards": forwards + int(total["image_forwards"]),
            "failed": sum(trial.value is None for trial in self.ledger),
            "best_value": best[0].value,
            "limits": {
                "trials": self.trials if self.smallest is None else self.smallest.trials,
                "time": self.config.time,
                "recover": self.config.recover,
            },
            "signal_split": self.images.signal_split,
            "seconds": round(seconds, 3),
        }

    def _seconds(self) -> dict[str, float | None]:
        """Return the seconds of all sessions by stage."""
        spent = self.ledger.spent
        return {
            **{stage: spent.get(stage, 0.0) + own for stage, own in self.session.seconds.items()},
            **dict.fromkeys(TRIAL_STAGES, 0.0),
            **stage_seconds(self.ledger),
        }
