"""What a training run is given, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from autoprune.core.records import Measured, Natural, Record
from autoprune.training.duration import Duration
from autoprune.training.hooks import Hooks
from autoprune.training.loggers import Log
from autoprune.training.objective import Objective
from autoprune.training.random_batches import RandomBatches
from autoprune.training.whitening import Whitening


@dataclass(frozen=True)
class Validation:
    """How good a network is on images that it is not trained on.

    Attributes:
        value: larger is better.
        figures: what it was computed from and what else is known, by name ("top1", "kl", "loss").
    """

    value: float
    figures: Mapping[str, float]

    def is_better_than(self, other: Validation) -> bool:
        """Compare values, and where they are equal the losses."""
        return self._order > other._order

    @property
    def _order(self) -> tuple[float, float]:
        return self.value, -self.figures.get("loss", 0.0)


class Reached(Record, frozen=True):
    """Where a run stands, beside its tensors; `train` has what the fields mean.

    Attributes:
        rule: number of the rule of validation; the values of another one cannot be compared.
    """

    step: Natural
    checks: Natural
    seconds: Measured
    losses: list[float]
    diverged: Natural | None
    best_step: Natural
    first: Validation
    best_validation: Validation
    rule: Natural = 0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        duration: of the run.
        checks: number of validations, evenly spaced; the last one is at the end.
        optimizer: a key of `choices.FINETUNING_OPTIMIZERS`.
        rate: peak learning rate.
        decay: weight decay.
        warm_up: fraction of the run in which the learning rate rises.
        clip: largest norm of the gradient; 0 for any.
        ema: decay of the moving average of the weights per step, which is then validated and kept
            in place of the weights; 0 for none.
        precision: one of `choices.PRECISIONS`.
        workers: processes that read batches ahead; 0 reads between steps.
        seed: of what is drawn at random.
    """

    duration: Duration
    checks: int
    optimizer: str = "sgd"
    rate: float = 0.01
    decay: float = 1e-4
    warm_up: float = 0.05
    clip: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    workers: int = 0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """What is trained, on what, and to what end.

    Attributes:
        network: where training begins; it is not changed.
        batches: the training samples.
        objective: the loss.
        validate: judges a network in evaluation mode.
        frozen: names of parameters and buffers that stay as they are; None for the parameters that
            do not require gradients.
        hooks: what shapes the network besides; of a run of their own.
        whitening: the coordinates that the network is trained in; None for its own.
    """

    network: nn.Module
    batches: RandomBatches
    objective: Objective
    validate: Callable[[nn.Module], Validation]
    frozen: frozenset[str] | None = None
    hooks: Hooks = field(default_factory=Hooks)
    whitening: Whitening | None = None


@dataclass(frozen=True, eq=False)
class TrainingFiles:
    """Where a run writes.

    Attributes:
        checkpoint: the file; None to keep nothing.
        log: told every validation.
    """

    checkpoint: Path | None = None
    log: Log = field(default_factory=Log)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training run ended with.

    Attributes:
        network: the best network of the run by its validations, in evaluation mode; the given one
            if none was better. Where hooks keep the last one: that of the last validation.
        first: validation of the given network.
        best: validation of the best network.
        best_step: number of steps after which it was the best; 0 for the given network.
        steps: number of steps made.
        seconds: time that they and the validations took, over all sessions.
        diverged: the step whose loss was not finite; None if all were.
    """

    network: nn.Module
    first: Validation
    best: Validation
    best_step: int
    steps: int
    seconds: float
    diverged: int | None = None
