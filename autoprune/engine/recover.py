"""The winner after a short recovery, which counts only if the selection images say so."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.core.progress import Progress
from autoprune.data import Partition
from autoprune.engine.clock import Session
from autoprune.engine.evaluators import Bench
from autoprune.engine.finalists import Finalist
from autoprune.engine.problem import Task
from autoprune.errors import AutopruneError, ModelError, first_line, user_code
from autoprune.evaluation.evaluator import timed
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.options.search import SearchConfig
from autoprune.recovery.distillation import DistillationTask, Recovery, recover
from autoprune.recovery.schedule import by_clock
from autoprune.structure.surgery import kept_positions


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


def recover_finalist(
    model: nn.Module,
    finalist: Finalist,
    task: Task,
    bench: Bench,
    images: Partition,
    reward: Reward,
    config: SearchConfig,
    session: Session,
    progress: Progress,
) -> Winner:
    """Recover the finalist in the time that is left for it; keep it as it was if that is no worse.

    Recovery is an addition: whatever goes wrong in it, the search has a network.
    """
    seconds = session.recovery_seconds
    if seconds <= 0:
        if config.recover != 0:
            progress.note("no recovery: the time is over")
        return Winner(finalist)
    widths = finalist.measurement.widths
    lesson = DistillationTask(
        dense=model,
        structure=task.structure,
        keep=kept_positions(model, bench.builder.policy(widths)),
        images=images.recovery,
        check=images.search,
        seed=config.seed,
    )
    pace = by_clock(seconds)

    def tell(share: float) -> None:
        progress.step("recovery", round(100 * share), 100)

    try:
        # Out of memory, an image that cannot be read, a score that fails.
        with user_code(ModelError, passes=(AutopruneError,)):
            with timed(session.seconds, "recovery"):
                done = recover(finalist.network, lesson, pace, tell)
            measured = bench.finals[finalist.reconstruction].judge(done.network, widths)
            session.count(measured.scores.samples)
            better = reward(measured) > reward(finalist.measurement)
    except AutopruneError as error:
        progress.note(f"no recovery: {first_line(error)}")
        return Winner(finalist)
    _tell(done, better, progress)
    return Winner(finalist, Recovered(done.network, measured) if better else None)


def _tell(done: Recovery, better: bool, progress: Progress) -> None:
    if done.interrupted:
        progress.note(f"recovery was interrupted after {done.steps} steps: its best is kept")
    if not better:
        progress.note(
            f"recovery did not help in {done.steps} steps: the network stays as it was right after "
            "the cut"
        )
