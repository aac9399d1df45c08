"""A short recovery of the winner, which counts only if the selection images say so."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import nn

from autoprune.core.plugins import object_name
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators
from autoprune.engine.finalists import Finalist
from autoprune.engine.problem import PruningProblem
from autoprune.errors import AutopruneError, ModelError, counted, first_line, spelt, user_code
from autoprune.evaluation.measurement import Measurement
from autoprune.recovery.distillation import DistillationTask, Recovery, recover
from autoprune.recovery.length import Length
from autoprune.recovery.recovery_file import RecoveryFile
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
        recovery: how it went; None where there was none.
    """

    finalist: Finalist
    recovered: Recovered | None = None
    recovery: Recovery | None = None

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
    clock, asked = context.clock, context.config.recover
    seconds = clock.recovery_seconds
    if seconds <= 0:
        if asked != 0:
            log.info("no recovery: the time is over")
        return Winner(finalist)
    task = _task(context, problem, evaluators, finalist)
    length = Length.read(asked) if isinstance(asked, str) else Length(seconds)
    shaped_by = f"{asked}, seed {context.config.seed}"
    if context.distance is not None:
        shaped_by += f", distance {object_name(context.distance)}"
    file = RecoveryFile(context.run.recovery_path, shaped_by)
    step = context.step("recovery")
    try:
        # Out of memory, an image that cannot be read, a score that fails.
        with user_code(ModelError, passes=(AutopruneError,)):
            with clock.stage("recovery"):
                done = recover(
                    finalist.network,
                    task,
                    length,
                    clock.end,
                    file,
                    lambda share: step(round(100 * share), 100),
                )
            evaluator = evaluators.selection[finalist.repair]
            measured = evaluator.measure_network(done.network, finalist.measurement.widths)
            clock.count(measured.scores.samples)
            better = context.reward(measured) > context.reward(finalist.measurement)
    except AutopruneError as error:
        log.info("no recovery: %s", first_line(error))
        return Winner(finalist)
    _tell(done, better, asked)
    return Winner(finalist, Recovered(done.network, measured) if better else None, done)


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


def _tell(done: Recovery, better: bool, asked: float | str | None) -> None:
    steps = counted(done.steps, "step")
    if done.interrupted:
        log.info("recovery was interrupted after %s: its best is kept", steps)
    elif str(done.repeated_by) != asked:
        log.info(
            "recovery made %s: %s repeats it",
            steps,
            spelt("recover", str(done.repeated_by or "off")),
        )
    if not better:
        log.info(
            "recovery did not help in %s: the network stays as it was right after the cut",
            steps,
        )
