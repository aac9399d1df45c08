"""Short training of a cut network to reproduce the dense one's activations, without labels.

The dense network runs on every batch (Beyer et al. 2022, "Knowledge distillation: a good teacher is
patient and consistent", section 3), so that only one batch is in memory. BN keeps its statistics
and dropout stays off: the run is too short to estimate statistics from small batches. Networks in
half precision are trained in single precision if they run in it, since rounding would undo most
steps.
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
from autoprune.errors import ModelError, spelt
from autoprune.reconstruction.batchnorm import fold_batchnorm, unfold_batchnorm
from autoprune.recovery.imitation import Imitation
from autoprune.recovery.schedule import Schedule, by_steps, first_of, learning_rate
from autoprune.recovery.whitening import WhitenedAdam, find_bases
from autoprune.statistics.consumers import batch_within
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import device_of, run
from autoprune.structure.output_distance import Distance
from autoprune.structure.surgery import Keep, deep_copy

# Batch size. Small batches get further in the same time, as long as they keep the device busy.
CPU_BATCH, GPU_BATCH = 32, 128
# Memory for the activations that are kept for the backward pass.
ACTIVATION_BYTES = 1_000_000_000
# A run that diverges continues from the best network so far, with the rate times this factor.
BACK_OFF = 0.25
# Number of images to check a run on, and of checks; the last one is at the end.
CHECK_SAMPLES = 250
CHECKS = 8
# Number of images to estimate the optimizer's coordinates from.
SEEN = 128
# Largest number of passes over the images.
EPOCHS = 10


@dataclass(frozen=True, eq=False)
class Recovery:
    """Result of a recovery.

    Attributes:
        network: the best network of the run; the given network itself if none was better.
        before, after: distance of the given and of the best network on the check images; NaN if
            the user interrupted the run before the first check.
        steps: number of steps.
        interrupted: whether the user interrupted the run.
    """

    network: nn.Module
    before: float
    after: float
    steps: int
    interrupted: bool


@dataclass(frozen=True, eq=False)
class DistillationTask:
    """The teacher of a recovery, and the images to train on.

    Attributes:
        dense: the dense network.
        structure: structure of the dense network.
        keep: entries of every tensor that the cut network keeps.
        images: images to train on; their labels are not read.
        check: images to select the best network on, none of which are trained on.
        seed: seed for the order of the images.
        output_distance: the user's own distance of outputs; None for squared errors.
    """

    dense: nn.Module
    structure: Structure
    keep: Keep
    images: Split
    check: Samples
    seed: int
    output_distance: Distance | None = None


def recover(
    small: nn.Module,
    task: DistillationTask,
    schedule: Schedule,
    progress: Callable[[float], None] = lambda completed: None,
) -> Recovery:
    """Train a copy of a cut network for at most `EPOCHS`; the network itself is not changed.

    On the check images the result is never farther from the dense network than the given network.
    A keyboard interrupt ends the run early and keeps the best network so far.

    Args:
        small: the cut network, in evaluation mode.
        task: teacher and images.
        schedule: duration of the run; runs with an equal number of steps are repeatable on one
            machine.
        progress: called with the completed fraction of the run.

    Raises:
        ModelError: the dense network has no output that can be imitated, the cut network has no
            gradients, or no parameter may be trained.
        DataError: an image cannot be read.
    """
    steps, checks, interrupted = 0, 0, False
    try:
        training = _Training(small, task)
    except KeyboardInterrupt:
        return Recovery(small, math.nan, math.nan, 0, True)
    schedule = first_of(schedule, by_steps(training.steps_of(EPOCHS)))
    try:
        for inputs in training.batches():
            completed = schedule(steps)
            if CHECKS * completed >= checks + 1:
                training.check()
                checks = int(CHECKS * completed)
            progress(min(completed, 1.0))
            if completed >= 1:
                break
            training.step(inputs, learning_rate(completed))
            steps += 1
    except KeyboardInterrupt:
        interrupted = True
    return Recovery(training.best, training.before, training.least, steps, interrupted)


class _Training:
    """A network in training, and the best one so far.

    Attributes:
        before: distance of the given network on the check images.
        least: distance of the best network so far.
    """

    def __init__(self, small: nn.Module, task: DistillationTask) -> None:
        self._small = small
        self._task = task
        dense, given = (_to_train(one, task.check) for one in (task.dense, small))
        self._teacher = fold_batchnorm(dense, task.structure)
        self._given = _trainable(given, task.structure)
        self._device = device_of(small)
        limit = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH
        self._dtype = float_dtype(self._given)
        self._check = Samples(with_floats(task.check.inputs, self._dtype), None)
        self._size = batch_within(task.structure, limit, ACTIVATION_BYTES)
        self._step_size = min(self._size, len(task.images))
        usual = self._check.first(self._size).inputs
        self._imitation = Imitation(
            self._teacher, task.structure, task.keep, usual, task.output_distance
        )
        seen = self._check.first(SEEN)
        self._bases = find_bases(self._given, task.structure, seen, self._size)
        self._peak = 1.0
        self._best: nn.Module | None = None
        self._start_from(self._given)
        self.before = self.least = self._distance()

    @property
    def best(self) -> nn.Module:
        """The best network so far, with BN as in the given network."""
        if self._best is None:
            return self._small
        return unfold_batchnorm(self._best, self._small, self._task.structure)

    def steps_of(self, epochs: int) -> int:
        """Return the number of steps of some passes over the images."""
        return math.ceil(epochs * len(self._task.images) / self._step_size)

    def batches(self) -> Iterator[Inputs]:
        """Yield batches without end, in a new random order in each pass over the images."""
        images, rng = self._task.images, np.random.default_rng(self._task.seed)
        size = self._step_size
        while True:
            order = rng.permutation(len(images)).tolist()
            for start in range(0, len(order) - size + 1, size):
                batch = images.take(order[start : start + size]).to(self._device)
                yield with_floats(batch.inputs, self._dtype)

    def step(self, inputs: Inputs, rate: float) -> None:
        """Train on one batch.

        Args:
            inputs: the batch.
            rate: learning rate as a fraction of its peak.

        Raises:
            ModelError: the network has no gradients.
        """
        with torch.no_grad():
            dense = self._imitation.record(self._teacher, inputs)
        if not self._imitation.is_finite(dense):
            return  # a broken image
        with torch.enable_grad():
            small = self._imitation.record(self._student, inputs)
            distance = self._imitation.distance(small, dense)
        if not distance.requires_grad:
            raise ModelError("the network runs without gradients: nothing can be learnt.")
        if not distance.isfinite():
            self._fall_back()
            return
        self._optimizer.step(distance, self._peak * rate)

    def check(self) -> None:
        """Keep the network if it is the best so far; fall back if the given one is better."""
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
                small = self._imitation.record(self._student, batch.inputs)
                dense = self._imitation.record(self._teacher, batch.inputs)
                total += len(batch) * float(self._imitation.distance(small, dense))
        return total / len(check)

    def _fall_back(self) -> None:
        self._peak *= BACK_OFF
        self._start_from(self._given if self._best is None else self._best)

    def _start_from(self, network: nn.Module) -> None:
        self._student = deep_copy(network)
        self._optimizer = WhitenedAdam(self._student, self._task.structure, self._bases)


def _trainable(small: nn.Module, structure: Structure) -> nn.Module:
    """Return a copy with folded BN, in which the parameters that may change require gradients.

    Raises:
        ModelError: no parameter may change.
    """
    network = fold_batchnorm(small, structure, to_train=True)
    for name, parameter in network.named_parameters():
        may_change = parameter.is_floating_point() and name not in structure.untouched
        parameter.requires_grad_(may_change)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(
            f"every parameter is frozen or excluded; {spelt('train_frozen', True)} trains what is "
            "frozen."
        )
    return network


def _to_train(model: nn.Module, samples: Samples) -> nn.Module:
    """Return a network in single precision; unchanged if it runs only in its half precision."""
    if not any(one.dtype in HALVES for one in model.parameters()):
        return model
    wide = deep_copy(model).to(torch.float32)
    try:
        with torch.no_grad():
            run(wide, with_floats(samples.first(1).inputs, float_dtype(wide)))
    except Exception:  # any error: the forward pass casts to half precision by itself
        return model
    return wide
