"""A short recovery of the winner, which counts only if the selection images say so."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.finalists import Finalist
from autoprune.engine.problem import PruningProblem
from autoprune.errors import AutopruneError, ModelError, counted, first_line, user_code
from autoprune.evaluation.measurement import Measurement
from autoprune.recovery.distillation import DistillationTask, Recovery, recover
from autoprune.recovery.schedule import by_clock
from autoprune.structure.surgery import kept_positions

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Recovered:
    """A recovered network, with its measurement on the selection split."""

    network: nn.Module
    measurement: Measurement


@dataclass(frozen=True, eq=False)
class Winner:
    """What a search hands over.

    Attributes:
        finalist: the winner right after the cut.
        recovered: the same after recovery; None where there was none, or it did not help.
    """

    finalist: Finalist
    recovered: Recovered | None = None

    @property
    def network(self) -> nn.Module:
        """The better network."""
        return self.finalist.network if self.recovered is None else self.recovered.network


def recover_winner(
    context: SearchContext, problem: PruningProblem, evaluators: Evaluators, finalist: Finalist
) -> Winner:
    """Recover the finalist in the time that is left for it; keep it as it was if that is no worse.

    Recovery is an addition: whatever goes wrong in it, the search has a network.
    """
    seconds = context.clock.recovery_seconds
    if seconds <= 0:
        if context.config.recover != 0:
            log.info("no recovery: the time is over")
        return Winner(finalist)
    task = _task(context, problem, evaluators, finalist)
    step = context.step("recovery")
    try:
        # Out of memory, an image that cannot be read, a score that fails.
        with user_code(ModelError, passes=(AutopruneError,)):
            with context.clock.stage("recovery"):
                done = recover(
                    finalist.network,
                    task,
                    by_clock(seconds),
                    lambda share: step(round(100 * share), 100),
                )
            evaluator = evaluators.selection[finalist.repair]
            measured = evaluator.measure_network(done.network, finalist.measurement.widths)
            context.clock.count(measured.scores.samples)
            better = context.reward(measured) > context.reward(finalist.measurement)
    except AutopruneError as error:
        log.info("no recovery: %s", first_line(error))
        return Winner(finalist)
    _tell(done, better)
    return Winner(finalist, Recovered(done.network, measured) if better else None)


def _task(
    context: SearchContext, problem: PruningProblem, evaluators: Evaluators, finalist: Finalist
) -> DistillationTask:
    policy = evaluators.builder.policy(finalist.measurement.widths)
    return DistillationTask(
        dense=context.model,
        structure=problem.structure,
        keep=kept_positions(context.model, policy),
        images=context.images.recovery,
        check=context.images.search,
        seed=context.config.seed,
        output_distance=context.distance,
    )


def _tell(done: Recovery, better: bool) -> None:
    steps = counted(done.steps, "step")
    if done.interrupted:
        log.info("recovery was interrupted after %s: its best is kept", steps)
    if not better:
        log.info(
            "recovery did not help in %s: the network stays as it was right after the cut",
            steps,
        )
