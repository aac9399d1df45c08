"""What a finished search says about itself: `result.json`, put together from all its parts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.finalists import Finalist
from autoprune.engine.max_drop import Smallest
from autoprune.engine.problem import PruningProblem
from autoprune.engine.recover import Recovered, Winner
from autoprune.engine.rounds import RoundResult
from autoprune.errors import AutopruneError, DataError, first_line, user_code
from autoprune.evaluation.outputs import score_on_split
from autoprune.profiling.host import host_figures
from autoprune.structure.surgery import deep_copy
from autoprune.study.ledger import Ledger
from autoprune.study.result import Outcome, frontier, stage_seconds

# Where the seconds of all trials go; those of a session have stages of their own.
TRIAL_STAGES = ("surgery", "batchnorm", "scoring")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """What the rounds of a search ended with.

    Attributes:
        result: of the round that won.
        winner: right after the cut, and recovered.
        trials: that the search might take.
        smallest: the bisection that the round was one of; None where there was a budget.
    """

    result: RoundResult
    winner: Winner
    trials: int
    smallest: Smallest | None = None


def summarize(
    context: SearchContext,
    problem: PruningProblem,
    evaluators: Evaluators,
    ledger: Ledger,
    found: Found,
) -> dict[str, Any]:
    """Score the winner a last time, and return what goes into `result.json`."""
    return _Summary(context, problem, evaluators, ledger, found).report()


@dataclass(frozen=True, eq=False)
class _Summary:
    context: SearchContext
    problem: PruningProblem
    evaluators: Evaluators
    ledger: Ledger
    found: Found

    def report(self) -> dict[str, Any]:
        """Return the result; scoring comes first, since its time counts."""
        config, outcome, result = self.context.config, self._outcome().report(), self.found.result
        smallest = self.found.smallest
        return {
            "version": 1,
            "strategy": config.strategy_name,
            "searched_by": result.strategy.name,
            "budget": self._budget(),
            "reward": config.reward,
            "seed": config.seed,
            "agent_from": result.strategy.agent_from,
            "judge": self.evaluators.search_repair.value,
            "reconstruction": result.finalist.repair.value,
            **outcome,
            "recovery": self._recovery(),
            "search": self._search(),
            "seconds": self._seconds(),
            "frontier": frontier(self.ledger),
            "max_drop": None if smallest is None else smallest.report(),
        }

    def _recovery(self) -> dict[str, Any] | None:
        """Return how many steps recovery made, and the length that repeats it; None without one."""
        done = self.found.winner.recovery
        if done is None:
            return None
        again = None if done.repeated_by is None else str(done.repeated_by)
        return {"steps": done.steps, "repeated_by": again}

    def _budget(self) -> str | None:
        if self.found.smallest is not None:
            return self.found.smallest.budget
        return self.context.config.budget if self.problem.projection.constraints else None

    def _outcome(self) -> Outcome:
        """Score on the test split; without one, or with the user's own score, as selected.

        The same where the test split turns out to be damaged: the search is not lost for that.
        """
        context, winner = self.context, self.found.winner
        chosen = winner.finalist.measurement
        stages: list[Finalist | Recovered] = [winner.finalist]
        stages += [winner.recovered] if winner.recovered else []
        dense, split = chosen.dense, "selection"
        scores = [stage.measurement.scores for stage in stages]
        if context.evaluate is not None:
            split = "user"
        elif context.images.test is not None:
            # Copies: what is handed over stays as it was written to the files.
            networks = [deep_copy(stage.network) for stage in stages]
            try:
                with user_code(DataError, passes=(AutopruneError,)):
                    dense, *scores = score_on_split(
                        context.model, networks, context.images.test, context.distance
                    )
                split = "test"
            except AutopruneError as error:  # labels, values or files, first read here
                log.warning(
                    "the test split cannot be scored: %s; the scores are those of the selection "
                    "images",
                    first_line(error).rstrip("."),
                )
        one = context.images.calibration.first(1)
        networks = [context.model, deep_copy(winner.network)]
        return Outcome(
            winner=replace(chosen, widths=self.problem.structure.left(chosen.widths)),
            sizes=self.problem.space.sizes,
            dense=dense,
            pruned=scores[0],
            recovered=scores[1] if winner.recovered else None,
            split=split,
            latency=self.found.result.latency or host_figures(networks, one.inputs),
        )

    def _search(self) -> dict[str, Any]:
        """Return what all sessions here took, choosing the evaluator and the winner included."""
        config, result = self.context.config, self.found.result
        trials, took, spent = len(self.ledger.made), self.context.clock.took, self.ledger.spent
        best = self.ledger.best(1, result.strategy.problem.projection.fits)
        total = {key: spent.get(key, 0) + value for key, value in took.items()}
        forwards = sum(
            self.evaluators.forwards(trial.measurement) for trial in self.ledger.made_here
        )
        # A session that was killed has left the seconds of its trials alone, each its worker's.
        stages = {stage: spent or 0.0 for stage, spent in self._seconds().items()}
        of_trials = sum(stages.pop(stage, 0.0) for stage in TRIAL_STAGES)
        seconds = max(total["total"], sum(stages.values()) + of_trials / self.context.workers)
        return {
            "trials": trials,
            # What a race scores again is a trial already. A search that was killed does so once
            # more, which makes it more work (image_forwards) but no more evaluations.
            "evaluations": trials + int(total["evaluations"]),
            "image_forwards": forwards + int(total["image_forwards"]),
            "failed": sum(trial.value is None for trial in self.ledger.made),
            "best_value": best[0].value,
            "limits": {
                "trials": self.found.trials,
                "time": config.time,
                "recover": config.recover,
            },
            "signal_split": self.context.images.signal_split,
            "seconds": round(seconds, 3),
        }

    def _seconds(self) -> dict[str, float | None]:
        """Return the seconds of all sessions by stage."""
        spent = self.ledger.spent
        return {
            **{
                stage: spent.get(stage, 0.0) + own
                for stage, own in self.context.clock.seconds.items()
            },
            **dict.fromkeys(TRIAL_STAGES, 0.0),
            **stage_seconds(self.ledger.made_here),
        }
