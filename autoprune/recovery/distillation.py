"""Short training of a cut network until it does what the dense one does; labels are not needed.

The dense network is asked about every image anew (Beyer et al. 2022, "Knowledge distillation: a
good teacher is patient and consistent", section 3): nothing is held in memory but one batch. BN
keeps its statistics and dropout stays off: a run is too short to learn statistics in small batches.
Networks in half precision learn in single precision where they run so, or most steps would be
rounded away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from autoprune.core.precision import HALVES, float_dtype
from autoprune.data import Samples, Split
from autoprune.data.forms import Inputs, with_floats
from autoprune.errors import ModelError
from autoprune.reconstruction.batchnorm import fold_batchnorm, unfold_batchnorm
from autoprune.recovery.imitation import Imitation
from autoprune.recovery.schedule import Pace, by_steps, first_of, rate
from autoprune.recovery.whitening import WhitenedAdam, find_bases
from autoprune.statistics.consumers import batch_within
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import device_of, run
from autoprune.structure.surgery import Keep, deep_copy

# Images of one step. Small steps get further in the same time, where they keep the device busy.
CPU_BATCH, GPU_BATCH = 32, 128
# Of activations that are kept for the backward pass.
ACTIVATION_BYTES = 1_000_000_000
# A run that goes astray falls back and goes on with a quarter of the rate.
BACK_OFF = 0.25
# Images that runs are checked on, and how often; the last check is at the end.
CHECK_SAMPLES = 250
CHECKS = 8
# Images that the learner's coordinates are found on.
SEEN = 128
# Times that every image is seen at most.
EPOCHS = 10


@dataclass(frozen=True, eq=False)
class Recovery:
    """What came of it.

    Attributes:
        network: the best one met; the given one itself where nothing was better.
        before, after: distance of the given and the best network on the check images; NaN if the
            user ended it before there was any.
        steps: made.
        interrupted: whether the user ended it.
    """

    network: nn.Module
    before: float
    after: float
    steps: int
    interrupted: bool


@dataclass(frozen=True, eq=False)
class Lesson:
    """What is imitated, on which images.

    Attributes:
        dense: the dense network.
        structure: its structure.
        keep: the entries that stay in the cut network.
        images: to train on; their labels are not read.
        check: to tell which network is best, none of them trained on.
        seed: of the order of the images.
    """

    dense: nn.Module
    structure: Structure
    keep: Keep
    images: Split
    check: Samples
    seed: int


def recover(
    small: nn.Module,
    lesson: Lesson,
    pace: Pace,
    progress: Callable[[float], None] = lambda share: None,
) -> Recovery:
    """Train a copy of a cut network, for `EPOCHS` at most; the network itself is not changed.

    What is handed back is never farther from the dense network on the check images than what was
    given. A keyboard interrupt ends the run early: the best network so far is kept.

    Args:
        small: the cut network, in evaluation mode.
        lesson: what it learns.
        pace: of the run; equal paces by steps give equal networks on one machine.
        progress: told the share of the run that is over.

    Raises:
        ModelError: the dense network returns nothing that can be imitated, or no gradients, or
            nothing may be trained.
        DataError: an image cannot be read.
    """
    steps, checks, interrupted = 0, 0, False
    try:
        training = _Training(small, lesson)
    except KeyboardInterrupt:
        return Recovery(small, math.nan, math.nan, 0, True)
    pace = first_of(pace, by_steps(training.steps_of(EPOCHS)))
    try:
        for inputs in training.batches():
            share = pace(steps)
            if CHECKS * share >= checks + 1:
                training.check()
                checks = int(CHECKS * share)
            progress(min(share, 1.0))
            if share >= 1:
                break
            training.step(inputs, rate(share))
            steps += 1
    except KeyboardInterrupt:
        interrupted = True
    return Recovery(training.best, training.before, training.least, steps, interrupted)


class _Training:
    """A network in training, and the best that was met.

    Attributes:
        before: distance of the given network on the check images.
        least: distance of the best.
    """

    def __init__(self, small: nn.Module, lesson: Lesson) -> None:
        self._small = small
        self._lesson = lesson
        dense, given = (_to_train(one, lesson.check) for one in (lesson.dense, small))
        self._teacher = fold_batchnorm(dense, lesson.structure)
        self._given = _trainable(given, lesson.structure)
        self._device = device_of(small)
        limit = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH
        self._dtype = float_dtype(self._given)
        self._check = Samples(with_floats(lesson.check.inputs, self._dtype), None)
        self._size = batch_within(lesson.structure, limit, ACTIVATION_BYTES)
        self._step_size = min(self._size, len(lesson.images))
        usual = self._check.first(self._size).inputs
        self._imitation = Imitation(self._teacher, lesson.structure, lesson.keep, usual)
        seen = self._check.first(SEEN)
        self._bases = find_bases(self._given, lesson.structure, seen, self._size)
        self._peak = 1.0
        self._best: nn.Module | None = None
        self._start_from(self._given)
        self.before = self.least = self._distance()

    @property
    def best(self) -> nn.Module:
        """The best network that was met, with BN as in the one that was given."""
        if self._best is None:
            return self._small
        return unfold_batchnorm(self._best, self._small, self._lesson.structure)

    def steps_of(self, epochs: int) -> int:
        """Return the steps in which every image is seen so many times."""
        return math.ceil(epochs * len(self._lesson.images) / self._step_size)

    def batches(self) -> Iterator[Inputs]:
        """Yield inputs without end, every image once before any comes again."""
        images, rng = self._lesson.images, np.random.default_rng(self._lesson.seed)
        size = self._step_size
        while True:
            order = rng.permutation(len(images)).tolist()
            for start in range(0, len(order) - size + 1, size):
                batch = images.take(order[start : start + size]).to(self._device)
                yield with_floats(batch.inputs, self._dtype)

    def step(self, inputs: Inputs, rate: float) -> None:
        """Bring the network nearer to the dense one on a batch.

        Raises:
            ModelError: no gradient arrives at it.
        """
        with torch.no_grad():
            dense = self._imitation.read(self._teacher, inputs)
        if not self._imitation.is_finite(dense):
            return  # nothing can be learnt from a broken image
        with torch.enable_grad():
            small = self._imitation.read(self._student, inputs)
            distance = self._imitation.distance(small, dense)
        if not distance.requires_grad:
            raise ModelError("the network runs without gradients: nothing can be learnt.")
        if not distance.isfinite():
            self._fall_back()
            return
        self._optimizer.step(distance, self._peak * rate)

    def check(self) -> None:
        """Keep the network if it is the best so far; leave it if it is worse than the given one."""
        distance = self._distance()
        if distance < self.least:
            self.least, self._best = distance, deep_copy(self._student)
        elif not distance <= self.before:
            self._fall_back()

    def _distance(self) -> float:
        check = self._check.first(CHECK_SAMPLES)
        total = 0.0
        with torch.no_grad():
            for batch in check.batches(self._size):
                small = self._imitation.read(self._student, batch.inputs)
                dense = self._imitation.read(self._teacher, batch.inputs)
                total += len(batch) * float(self._imitation.distance(small, dense))
        return total / len(check)

    def _fall_back(self) -> None:
        self._peak *= BACK_OFF
        self._start_from(self._given if self._best is None else self._best)

    def _start_from(self, network: nn.Module) -> None:
        self._student = deep_copy(network)
        self._optimizer = WhitenedAdam(self._student, self._lesson.structure, self._bases)


def _trainable(small: nn.Module, structure: Structure) -> nn.Module:
    """Return a copy, BN folded, in which what may change requires gradients, and nothing else.

    Raises:
        ModelError: nothing may change.
    """
    network = fold_batchnorm(small, structure, to_train=True)
    for name, parameter in network.named_parameters():
        may_change = parameter.is_floating_point() and name not in structure.untouched
        parameter.requires_grad_(may_change)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(
            "every parameter is frozen or excluded; train_frozen=True (--train-frozen) trains what "
            "is frozen."
        )
    return network


def _to_train(model: nn.Module, samples: Samples) -> nn.Module:
    """Return a network in single precision; as it is if it insists on the half that it is in."""
    if not any(one.dtype in HALVES for one in model.parameters()):
        return model
    wide = deep_copy(model).to(torch.float32)
    try:
        with torch.no_grad():
            run(wide, with_floats(samples.first(1).inputs, float_dtype(wide)))
    except Exception:  # whatever a forward pass raises that casts what it reads itself
        return model
    return wide
