"""A cut network while it learns, with what it learns from and the best that it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.core.precision import HALVES, float_dtype
from autoprune.core.randomness import kept_random_states
from autoprune.data import Samples, Split
from autoprune.data.forms import Inputs, with_floats
from autoprune.errors import ModelError, spelt
from autoprune.reconstruction.batchnorm import fold_batchnorm, unfold_batchnorm
from autoprune.recovery.imitation import Imitation
from autoprune.recovery.schedule import Schedule
from autoprune.statistics.consumers import batch_within
from autoprune.structure.frozen import freeze_only
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import device_of, run
from autoprune.structure.output_distance import Distance
from autoprune.structure.surgery import Keep, deep_copy
from autoprune.training.optimizers import rate_within
from autoprune.training.whitening import WhitenedAdam, find_bases

# Batch size. Small batches get further in the same time, as long as they keep the device busy.
CPU_BATCH, GPU_BATCH = 32, 128
# Memory for the activations that are kept for the backward pass.
ACTIVATION_BYTES = 1_000_000_000
# A run that diverges continues from the best network so far, with the rate times this factor.
BACK_OFF = 0.25
# Peak learning rate in whitened coordinates: the relative change of a layer's outputs in a step.
RATE = 0.03
# It is lowered until a first step moves the activations by at most this share of their distance
# from the dense network's.
MOVED = 0.35
# Number of images to check a run on, and of checks; the last one is at the end.
CHECK_SAMPLES = 250
CHECKS = 8
# Number of images to estimate the optimizer's coordinates from.
SEEN = 128
# Steps that are timed to plan a run, after one that is not, and the share of its time for them.
TIMED, TIMED_SHARE = 3, 0.1


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


class Student:
    """A cut network that learns from the dense one, and the best that it was so far.

    Attributes:
        before: distance of the given network on the check images.
        least: distance of the best network so far.
        steps: number of steps that were made.
        checked: how many there were at the last check.
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
        seen = [*self._check.first(SEEN).batches(self._size)]
        self._bases = find_bases(self._given, task.structure, seen)
        self._peak = 1.0
        self._best: nn.Module | None = None
        self.steps = self.checked = 0
        self._start_from(self._given)
        began = time.monotonic()
        self.before = self.least = self._distance()
        self._check_seconds = time.monotonic() - began

    @property
    def best(self) -> nn.Module:
        """The best network so far, with BN as in the given network."""
        if self._best is None:
            return self._small
        return unfold_batchnorm(self._best, self._small, self._task.structure)

    def steps_of(self, epochs: float) -> int:
        """Return the number of steps of some passes over the images."""
        return math.ceil(epochs * len(self._task.images) / self._step_size)

    def find_peak(self) -> None:
        """Lower the peak of the learning rate until one step moves the network little enough.

        The steps are undone.
        """
        inputs = self._check.first(self._size).inputs
        with torch.no_grad():
            given = self._imitation.record(self._given, inputs)
            dense = self._imitation.record(self._teacher, inputs)
            most = MOVED * float(self._imitation.distance(given, dense))

            def moved(peak: float) -> float:
                self._peak = peak
                self._learn(inputs, 1.0)
                stepped = self._imitation.record(self._student, inputs)
                self._start_from(self._given)
                return float(self._imitation.between(stepped, given))

            self._peak = rate_within(self._peak, moved, most)

    def steps_within(self, seconds: float) -> int:
        """Return how many steps, and the checks between them, should take so many seconds.

        The first steps are timed and then undone.
        """
        took: list[float] = []
        peak = self._peak
        with kept_random_states():
            for inputs in islice(self.batches(), 1 + TIMED):
                began = time.monotonic()
                self._learn(inputs, 0.0)
                took.append(time.monotonic() - began)
                if sum(took) > TIMED_SHARE * seconds:
                    break
        self._peak = peak
        self._start_from(self._given)
        timed = took[1:] or took
        left = seconds - sum(took) - CHECKS * self._check_seconds
        return max(0, int(left * len(timed) / sum(timed)))

    def batches(self) -> Iterator[Inputs]:
        """Yield the batches of the steps to come, without end."""
        for order in islice(self._orders(), self.steps, None):
            batch = self._task.images.take(order).to(self._device)
            yield with_floats(batch.inputs, self._dtype)

    def _orders(self) -> Iterator[list[int]]:
        """Yield the images of every step, in a new random order in each pass over them."""
        number, size = len(self._task.images), self._step_size
        rng = np.random.default_rng(self._task.seed)
        while True:
            order = rng.permutation(number).tolist()
            for start in range(0, number - size + 1, size):
                yield order[start : start + size]

    def step(self, inputs: Inputs, rate: float) -> None:
        """Train on one batch.

        Args:
            inputs: the batch.
            rate: learning rate as a fraction of its peak.

        Raises:
            ModelError: the network has no gradients.
        """
        self._learn(inputs, rate)
        self.steps += 1

    def _learn(self, inputs: Inputs, rate: float) -> None:
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
        self._optimizer.learn(distance, RATE * self._peak * rate)

    def check(self) -> None:
        """Keep the network if it is the best so far; fall back if the given one is better."""
        distance = self._distance()
        self.checked = self.steps
        if distance < self.least:
            self.least, self._best = distance, deep_copy(self._student)
        elif not distance <= self.before:
            self._fall_back()

    def state(self, schedule: Schedule) -> dict[str, Any]:
        """Return all that steps and checks have changed, as tensors and plain values."""
        return {
            "schedule": [schedule.steps, schedule.made],
            "steps": self.steps,
            "checked": self.checked,
            "peak": self._peak,
            "least": self.least,
            "best": None if self._best is None else self._best.state_dict(),
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], longest: int) -> Schedule:
        """Go on where a run with the same task was; return its schedule.

        Args:
            state: as `state` returned it.
            longest: steps that such a run may take.

        Raises:
            ValueError: the state is no such run's.
            Exception: whatever a module or an optimizer raises at a state that does not fit.
        """
        schedule = Schedule(*map(int, state["schedule"]))
        self.steps, self.checked = int(state["steps"]), int(state["checked"])
        if not 0 <= self.checked <= self.steps <= schedule.made <= schedule.steps <= longest:
            raise ValueError(f"it says that {self.steps} steps were made of {schedule.steps}")
        self._peak, self.least = float(state["peak"]), float(state["least"])
        if state["best"] is not None:
            self._best = deep_copy(self._given)
            self._best.load_state_dict(state["best"])
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        return schedule

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
    freeze_only(network, structure.untouched)
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
