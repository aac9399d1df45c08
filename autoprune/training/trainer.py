"""The training loop: steps, validation, the best network, and resuming at any step.

What is drawn at random in a step follows from the seed and the number of the step alone. A run that
was killed therefore goes on from its checkpoint to the same weights, where steps limit it.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoprune.core.records import plain, read
from autoprune.errors import AutopruneError, ModelError, RunError, describe, first_line
from autoprune.structure.frozen import freeze_only, frozen_tensors
from autoprune.structure.inputs import device_of
from autoprune.structure.surgery import deep_copy
from autoprune.training.checkpoints import load_checkpoint, save_checkpoint
from autoprune.training.duration import learning_rate
from autoprune.training.hooks import Moment
from autoprune.training.optimizers import make_optimizer, set_rate
from autoprune.training.processes import Processes, autocast_dtype
from autoprune.training.random_batches import Batch, seed_of
from autoprune.training.training_values import (
    Reached,
    Recipe,
    Trained,
    TrainingFiles,
    TrainingTask,
    Validation,
)

log = logging.getLogger(__name__)

# Seconds between two checkpoints; each validation writes one, too.
CHECKPOINT_SECONDS = 60.0
# Number of the rule of validation: 1 since classifiers that learn from the dense network are
# validated by that.
RULE = 1


def train(
    task: TrainingTask,
    recipe: Recipe,
    files: TrainingFiles | None = None,
    processes: Processes | None = None,
    progress: Callable[[float], None] = lambda completed: None,
) -> Trained:
    """Train a copy of a network, and return the best one.

    A run goes on from its checkpoint, if there is one; interrupting it loses a minute at most.

    Args:
        task: what is trained.
        recipe: how.
        files: where the run writes.
        processes: processes that train together.
        progress: called with the completed fraction of the run.

    Raises:
        ModelError: no parameter may change, or the network has no gradients.
        RunError: the checkpoint cannot be read, or is of another run.
    """
    trainer = _Trainer(task, recipe, files or TrainingFiles(), processes or Processes())
    trainer.run(progress)
    return trainer.result()


class _Trainer:
    """A network in training, and the best one so far."""

    def __init__(
        self, task: TrainingTask, recipe: Recipe, files: TrainingFiles, processes: Processes
    ) -> None:
        self._task, self._recipe, self._files, self._processes = task, recipe, files, processes
        self._network, self._hooks = trainable(task.network, task.frozen), task.hooks
        self._hooks.start(self._network)
        optimizer = (
            make_optimizer(self._network, recipe.optimizer, recipe.decay)
            if task.whitening is None
            else task.whitening.optimizer(self._network)
        )
        self._average = _moving_average(self._network, recipe.ema)
        self._dtype = autocast_dtype(recipe.precision, self._network)
        self._step, self._checks, self._spent = 0, 0, 0.0
        self._best, self._best_step = deep_copy(task.network), 0
        self._best_hooks = self._hooks_now()
        self._losses: list[float] = []  # since the last validation
        self._diverged: int | None = None
        self._began = self._saved = time.monotonic()
        path = files.checkpoint
        state = load_checkpoint(path) if path is not None and path.exists() else None
        self._is_resumed = state is not None
        if state is None:
            self._first = self._best_validation = task.validate(self._best)
            self._tell(self._first)
        else:
            self._restore(state, optimizer)
        called = self._hooks.called(self._network)
        self._called, self._optimizer = processes.prepare(called, optimizer)

    def run(self, progress: Callable[[float], None]) -> None:
        """Make the steps that are left."""
        for batch in self._task.batches.since(self._step, self._recipe.workers):
            completed = self._completed()
            progress(min(completed, 1.0))
            if completed * self._recipe.checks >= self._checks + 1:
                self._checks = int(completed * self._recipe.checks)
                self._validate()
            elif time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                self._save()
            if completed >= 1 or self._diverged is not None:
                return
            with self._named_checkpoint():
                loss = self._learn(batch, completed)
            if not loss < float("inf"):  # NaN, too
                self._diverged = self._step
                self._save()
                return
            self._losses.append(loss)
            self._step += 1

    @contextmanager
    def _named_checkpoint(self) -> Iterator[None]:
        """Around a step: the first one after a checkpoint fails if its state is no such run's."""
        try:
            yield
        except (AutopruneError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not self._is_resumed:
                raise
            path = str(self._files.checkpoint)
            raise RunError(
                f"training cannot go on from checkpoint {path!r}: {describe(error)}"
            ) from error
        self._is_resumed = False

    def result(self) -> Trained:
        """Return what the run has so far; hooks are as they were for its network."""
        self._hooks.load_state(self._best_hooks)
        return Trained(
            network=self._best,
            first=self._first,
            best=self._best_validation,
            best_step=self._best_step,
            steps=self._step,
            seconds=self._seconds,
            diverged=self._diverged,
        )

    @property
    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _completed(self) -> float:
        completed: float = self._processes.agree(
            self._recipe.duration.completed(self._step, self._seconds)
        )
        return completed

    def _learn(self, batch: Batch, completed: float) -> float:
        """Make a step; return the loss, with which nothing was done if it is not finite."""
        torch.manual_seed(seed_of(self._recipe.seed + 1 + self._processes.rank, self._step))
        samples = batch.samples.to(device_of(self._network))
        batch = Batch(batch.step, samples, batch.indices)
        with torch.enable_grad():
            with _autocast(device_of(self._network).type, self._dtype):
                loss = self._task.objective(self._called, batch)
                for outputs in self._hooks.further_outputs():
                    loss = loss + self._task.objective.of_outputs(outputs, batch)
                if (added := self._hooks.loss(self._network)) is not None:
                    loss = loss + added
            if not loss.requires_grad:
                raise ModelError("the network runs without gradients: nothing can be learnt.")
            value = float(loss.detach())
            if self._processes.agree(value - value) != 0:  # NaN of infinities, too
                return float("nan")
            self._optimizer.zero_grad()
            self._processes.backward(loss)
        if self._recipe.clip:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip)
        rate = self._recipe.rate * learning_rate(completed, self._recipe.warm_up)
        now = Moment(self._step, self._task.batches.steps_per_epoch, min(completed, 1.0), rate)
        with torch.no_grad():
            self._hooks.after_backward(self._network, now)
        set_rate(self._optimizer, rate)
        self._optimizer.step()
        with torch.no_grad():
            self._hooks.after_step(self._network, now)
            if now.ends_epoch:
                self._hooks.after_epoch(self._network, now)
        if self._average is not None:
            self._average.update_parameters(self._network)
        return value

    def _validate(self) -> None:
        trained = self._network if self._average is None else self._average.module
        # Hooks change what was trained, whatever is frozen in the given network.
        network = _as_given(self._hooks.finish(_evaluated(trained)), self._task.network)
        validation = self._task.validate(network)
        is_better = validation.is_better_than(self._best_validation)
        if math.isfinite(validation.value) if self._hooks.keeps_last else is_better:
            self._best, self._best_step = network, self._step
            self._best_validation, self._best_hooks = validation, self._hooks_now()
        self._tell(validation)
        self._losses = []
        self._save()

    def _hooks_now(self) -> dict[str, Any]:
        return copy.deepcopy(self._hooks.state())

    def _tell(self, validation: Validation) -> None:
        if self._processes.rank == 0:
            epoch = self._step / self._task.batches.steps_per_epoch
            loss = sum(self._losses) / len(self._losses) if self._losses else None
            row = {"step": self._step, "epoch": round(epoch, 4), "train_loss": loss}
            self._files.log.write({**row, **validation.figures, "seconds": round(self._seconds, 2)})

    @property
    def _reached(self) -> Reached:
        counts = self._step, self._checks, self._seconds, self._losses, self._diverged
        return Reached(*counts, self._best_step, self._first, self._best_validation, RULE)

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self._files.checkpoint is None or self._processes.rank:
            return
        average = self._average
        state = {
            **plain(self._reached),
            "network": self._network.state_dict(),
            "average": None if average is None else average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best.state_dict(),
            "hooks": self._hooks.state(),
            "best_hooks": self._best_hooks,
        }
        save_checkpoint(self._files.checkpoint, state)

    def _restore(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
        try:
            known = Reached.__struct_fields__
            reached = read({key: state[key] for key in known if key in state}, Reached)
            self._network.load_state_dict(state["network"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            self._best.load_state_dict(state["best"])
            self._hooks.load_state(state.get("hooks", {}))
            self._best_hooks = state.get("best_hooks", {})
        except Exception as error:  # whatever a module's own way to load raises
            raise RunError(
                f"checkpoint {str(self._files.checkpoint)!r} is of another run, or damaged: "
                f"{first_line(error)}"
            ) from error
        self._step, self._checks, self._spent = reached.step, reached.checks, reached.seconds
        self._losses, self._diverged = list(reached.losses), reached.diverged
        self._first, self._best_validation = reached.first, reached.best_validation
        self._best_step = reached.best_step
        if reached.rule != RULE:
            self._best_validation = self._task.validate(self._best)
        self._files.log.resume(self._step)


def _autocast(device: str, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device, dtype, enabled=dtype is not None)


def trainable(network: nn.Module, frozen: frozenset[str] | None) -> nn.Module:
    """Return a copy in training mode, but for what is frozen.

    Args:
        network: to be trained.
        frozen: as the task has it.

    Raises:
        ModelError: no parameter may change.
    """
    copy = deep_copy(network).train()
    stays = frozen_tensors(network) if frozen is None else frozen
    freeze_only(copy, stays)
    if not any(parameter.requires_grad for parameter in copy.parameters()):
        raise ModelError(
            "every parameter is frozen, or was excluded from the search: nothing can be trained."
        )
    for path, module in copy.named_modules():
        own = {f"{path}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)}
        if own & stays:
            module.eval()  # BN would update its statistics
    return copy


def _evaluated(trained: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, without gradients."""
    copy = deep_copy(trained).eval()
    for parameter in copy.parameters():
        parameter.grad = None
    return copy


def _as_given(network: nn.Module, given: nn.Module) -> nn.Module:
    """Return the network, whose parameters require gradients where those of another do."""
    for own, first in zip(network.parameters(), given.parameters(), strict=True):
        own.requires_grad_(first.requires_grad)
    return network


def _moving_average(network: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
