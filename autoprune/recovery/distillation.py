"""Short training of a cut network to reproduce the dense one's activations, without labels.

The dense network runs on every batch (Beyer et al. 2022, "Knowledge distillation: a good teacher is
patient and consistent", section 3), so that only one batch is in memory. BN keeps its statistics
and dropout stays off: the run is too short to estimate statistics from small batches. Networks in
half precision are trained in single precision if they run in it, since rounding would undo most
steps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from autoprune.errors import describe
from autoprune.recovery.length import Length
from autoprune.recovery.recovery_file import RecoveryFile
from autoprune.recovery.schedule import Schedule, learning_rate
from autoprune.recovery.student import CHECKS, DistillationTask, Student

log = logging.getLogger(__name__)

# Largest number of passes over the images in a recovery by the clock.
EPOCHS = 10
# Share of its time that such a recovery plans its steps for; others need some of the processor.
PLANNED = 0.9
# Seconds between two states in the file; each check writes one, too.
SAVE_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Recovery:
    """Result of a recovery.

    Attributes:
        network: the best network of the run; the given network itself if none was better.
        before, after: distance of the given and of the best network on the check images; NaN if
            the user interrupted the run before the first check.
        steps: number of steps.
        interrupted: whether the user interrupted the run.
        repeated_by: the length of a run that ends with the same network; None if no step counts.
    """

    network: nn.Module
    before: float
    after: float
    steps: int
    interrupted: bool
    repeated_by: Length | None = None


def recover(
    small: nn.Module,
    task: DistillationTask,
    length: Length,
    deadline: float = math.inf,
    file: RecoveryFile | None = None,
    progress: Callable[[float], None] = lambda completed: None,
) -> Recovery:
    """Train a copy of a cut network; the network itself is not changed.

    The number of steps shapes the run, and nothing else: in seconds, it is planned by the pace of
    the first steps. On the check images the result is never farther from the dense network than the
    given network. A keyboard interrupt ends the run early and keeps the best network so far.

    Args:
        small: the cut network, in evaluation mode.
        task: teacher and images.
        length: of the run; in seconds at most `EPOCHS`.
        deadline: in `time.monotonic` seconds, after which no step is begun.
        file: where the run goes on if its process is killed.
        progress: called with the completed fraction of the run.

    Raises:
        ModelError: the dense network has no output that can be imitated, the cut network has no
            gradients, or no parameter may be trained.
        DataError: an image cannot be read.
    """
    try:
        student, schedule = _begun(small, task, length, file)
    except KeyboardInterrupt:
        return Recovery(small, math.nan, math.nan, 0, True)
    interrupted = False
    try:
        save = None if file is None else partial(file.save, small)
        _run(student, schedule, deadline, save, progress)
    except KeyboardInterrupt:
        interrupted = True
    made, steps = student.checked, schedule.steps
    repeated_by = Length(steps, "steps", made if made < steps else None) if made else None
    return Recovery(
        student.best, student.before, student.least, student.steps, interrupted, repeated_by
    )


def _begun(
    small: nn.Module, task: DistillationTask, length: Length, file: RecoveryFile | None
) -> tuple[Student, Schedule]:
    """Return a student, where its file says that it was if there is one, and its schedule."""
    began = time.monotonic()
    student = Student(small, task)
    state = None if file is None else file.load(small)
    if file is not None and state is not None:
        try:
            return student, student.restore(state, _longest(student, length))
        except Exception as error:  # whatever a module or an optimizer raises
            log.warning("%r is damaged: %s; recovery begins again", str(file.path), describe(error))
            student = Student(small, task)
    return student, _scheduled(student, length, began)


def _longest(student: Student, length: Length) -> int:
    """Return the steps that a run of some length has at most."""
    if length.unit == "steps":
        return int(length.amount)
    return student.steps_of(length.amount if length.unit == "epochs" else EPOCHS)


def _scheduled(student: Student, length: Length, began: float) -> Schedule:
    """Return the schedule of a run that begins."""
    student.find_peak()
    steps = _longest(student, length)
    if length.unit == "seconds":
        left = PLANNED * length.amount - (time.monotonic() - began)
        steps = min(student.steps_within(left), steps)
    return Schedule(steps, length.made or steps)


def _run(
    student: Student,
    schedule: Schedule,
    deadline: float,
    save: Callable[[Mapping[str, Any]], None] | None,
    progress: Callable[[float], None],
) -> None:
    """Make the steps that are left; check the network `CHECKS` times, and at the end."""
    checks, saved = int(CHECKS * schedule.completed(student.steps)), time.monotonic()
    for inputs in student.batches():
        completed = schedule.completed(student.steps)
        is_done = student.steps >= schedule.made
        is_over = is_done or time.monotonic() >= deadline
        is_due = is_done or CHECKS * completed >= checks + 1
        if is_due and student.checked != student.steps:
            student.check()
            checks = int(CHECKS * completed)
        if save and (is_due or is_over or time.monotonic() - saved > SAVE_SECONDS):
            save(student.state(schedule))
            saved = time.monotonic()
        progress(min(completed, 1.0))
        if is_over:
            break
        student.step(inputs, learning_rate(completed))
    # At the deadline, where no check is due. It is not in the file: if a killed session is gone on
    # with, the steps to come must follow from those that repeat them, which make no such check.
    if student.checked != student.steps:
        student.check()


__all__ = ["DistillationTask", "Recovery", "recover"]
