"""From the trials of a search to its winner: the best are repaired with care, on fresh images.

The images of a search tell its best few candidates apart badly: among good candidates for
ResNet-20 their KL has a rank correlation of 0.5 only with that after sequential repair on other
images. So the best trials are looked at again: a shortlist is repaired quickly (prescreened), its
best are repaired thoroughly (the finalists), and the best of these wins.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from autoprune.core.policy import Widths
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import Evaluators, RepairKind, build_finalist
from autoprune.engine.executors import Executor, Pending, Submit, in_order
from autoprune.engine.limits import FinalistLimits
from autoprune.errors import AutopruneError, ModelError, first_line, user_code
from autoprune.evaluation.measurement import Measurement
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.trial import Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and measured on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        repair: how it was repaired.
        forwards: samples that each measurement of it and of the others ran through networks.
    """

    measurement: Measurement
    network: nn.Module
    repair: RepairKind
    forwards: tuple[int, ...] = ()


def make_shortlist(
    context: SearchContext,
    evaluators: Evaluators,
    space: SearchSpace,
    trials: Sequence[Trial],
    always: Collection[Widths] = (),
) -> Sequence[Trial]:
    """Return the trials to look at again.

    Args:
        context: of the search.
        evaluators: of the search.
        space: of the trials' widths.
        trials: with a value, best first.
        always: widths that are on the list if they were measured.
    """
    limits = context.limits.finalists
    if evaluators.search_repair is not RepairKind.QUICK:
        return trials[: limits.shortlist]
    chosen: list[Trial] = []
    rest: list[Trial] = []
    for trial in trials:
        widths = trial.candidate.widths
        near = any(space.distance(widths, o.candidate.widths) < limits.apart for o in chosen)
        (rest if near or len(chosen) == limits.diverse else chosen).append(trial)
    known = [trial for trial in rest if trial.candidate.widths in always]
    return [*chosen, *rest[: limits.diverse - len(chosen)], *known]


def select_winner(
    context: SearchContext,
    executor: Executor[Evaluators],
    trials: Sequence[Trial],
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the shortlist, judged on images that the search did not see.

    The first finalist shows which of its repairs is the better one, and the others get that:
    sequential reconstruction is better by far with enough calibration data, and can be worse with
    little. A candidate that fails is left out.

    Args:
        context: of the search.
        executor: where finalists are built and measured.
        trials: the shortlist, best first.
        deadline: when no finalist is begun any more once there is one, in `time.monotonic`
            seconds.

    Raises:
        ModelError: all of them fail.
    """
    with executor.opened() as submit:
        selection = _Selection(context, executor, submit, deadline)
        finalists, repairs = _prescreen(trials, selection, context.limits.finalists)
        selection.planned = selection.done + len(finalists)
        done = 0
        known: dict[RepairKind, float] = {}
        while done < len(finalists) and not (known or selection.late):
            wanted = [(finalists[done], kind) for kind in repairs]
            values = selection.values(wanted, lambda: selection.late)
            known = {k: v for k, v in zip(repairs, values, strict=False) if v is not None}
            done += not selection.late or bool(known)
        best = max(known, key=known.__getitem__, default=repairs[-1])
        wanted = [(trial, best) for trial in finalists[done:]]
        done += len(selection.values(wanted, lambda: selection.late))
        if done < len(finalists):
            log.info("the time is over: %d of %d finalists judged", done, len(finalists))
    return selection.winner()


class _Selection:
    """Builds and measures candidates; each kind of repair of one only once.

    Attributes:
        evaluators: of the search.
        planned: measurements there will be if all goes well.
    """

    def __init__(
        self,
        context: SearchContext,
        executor: Executor[Evaluators],
        submit: Submit,
        deadline: float,
    ) -> None:
        self.evaluators, self._submit = executor.subject, submit
        self._ahead = executor.places
        self._reward = context.reward
        self._step = context.step("finalists")
        self._deadline = deadline
        self._halfway = (time.monotonic() + deadline) / 2
        self._values: dict[tuple[Widths, RepairKind], float | None] = {}
        self._best: Finalist | None = None  # no other network is kept
        self._forwards: list[int] = []
        self._failure = ""
        self.planned = 0

    @property
    def done(self) -> int:
        """Measurements so far."""
        return len(self._forwards)

    @property
    def late(self) -> bool:
        """Whether the time is over, and there is something to hand over."""
        return self._best is not None and time.monotonic() >= self._deadline

    @property
    def half_over(self) -> bool:
        """Whether half of the time that there was at the beginning is over."""
        return time.monotonic() >= self._halfway

    def values(
        self,
        wanted: Sequence[tuple[Trial, RepairKind]],
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[float | None]:
        """Return the rewards of candidates, each after one kind of repair; None of what fails.

        Args:
            wanted: candidates and repairs.
            is_over: whether no more are to be built; what was begun is waited for.

        Returns:
            As many as were built before.
        """
        keys = [(trial.candidate.widths, repair) for trial, repair in wanted]
        unknown = (key for key in dict.fromkeys(keys) if key not in self._values)
        work = [(key, partial(build_finalist, *key)) for key in unknown]
        for (widths, repair), built in in_order(self._submit, work, self._ahead, is_over):
            self._forwards.append(self.evaluators.finalist_forwards(repair))
            self._values[widths, repair] = self._measured(repair, built)
            self._step(self.done, max(self.planned, self.done))
        known = itertools.takewhile(self._values.__contains__, keys)
        return [self._values[key] for key in known]

    def _measured(
        self, repair: RepairKind, built: Pending[tuple[nn.Module, Measurement]]
    ) -> float | None:
        try:
            with user_code(ModelError, passes=(AutopruneError,)):  # out of memory, for instance
                network, measurement = built()
                value = self._reward(measurement)
        except AutopruneError as error:
            self._failure = first_line(error)
            log.info("a finalist drops out: %s", self._failure)
            return None
        known = [other for other in self._values.values() if other is not None]
        if self._best is None or value > max(known):
            self._best = Finalist(measurement, network, repair)
        return value

    def winner(self) -> Finalist:
        """Return the best, with its measurement on the selection split alone.

        Raises:
            ModelError: all failed, or the best cannot be measured again.
        """
        best = self._best
        if best is None:
            raise ModelError(
                "every finalist failed on the selection images, the last one because "
                f"{self._failure}; the trials are kept: resume the run when the cause is mended."
            )
        if not self.evaluators.on_mixed_images:
            return replace(best, forwards=tuple(self._forwards))
        evaluator = self.evaluators.selection[best.repair]
        with user_code(_not_scored):  # out of memory
            alone = evaluator.measure_network(best.network, best.measurement.widths)
        forwards = (*self._forwards, alone.scores.samples)
        return replace(best, measurement=alone, forwards=forwards)


def _not_scored(reason: str) -> ModelError:
    return ModelError(
        f"the winner cannot be scored on the selection images ({reason}); the trials are kept: "
        "resume the run when the cause is mended."
    )


def _prescreen(
    trials: Sequence[Trial], selection: _Selection, limits: FinalistLimits
) -> tuple[Sequence[Trial], tuple[RepairKind, ...]]:
    """Return the finalists, best first, and how they may be repaired.

    Where a quick repair beats the search's own, these are the best few after it, of as many as
    half of the time allows.
    """
    own, quick = selection.evaluators.search_repair, RepairKind.QUICK
    unscreened = trials[: limits.unscreened], (own, RepairKind.SEQUENTIAL)
    has_quick = quick in selection.evaluators.finalists
    if not has_quick or len(trials) <= limits.prescreened or selection.half_over:
        return unscreened
    selection.planned = (own is not quick) + len(trials) + limits.prescreened
    before, after = selection.values([(trials[0], own), (trials[0], quick)])
    if after is None or (own is not quick and before is not None and after <= before):
        return unscreened
    wanted = [(trial, quick) for trial in trials[1:]]
    found = [after, *selection.values(wanted, lambda: selection.half_over)]
    if len(found) < len(trials):
        log.info("half of the time is over: %d of %d prescreened", len(found), len(trials))
    values = {number: value for number, value in enumerate(found) if value is not None}
    ranked = sorted(values, key=lambda number: -values[number])
    finalists = [trials[number] for number in ranked[: limits.prescreened]]
    return finalists, (quick, RepairKind.SEQUENTIAL)
