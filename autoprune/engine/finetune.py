"""Fine-tuning of a finished run's network, with the dense network as its teacher."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from autoprune.core.plugins import object_name
from autoprune.core.progress import Progress
from autoprune.data import Partition, Samples, Splits, SplitSizes, partition
from autoprune.engine.context import Evaluate
from autoprune.engine.validation import (
    ByScore,
    check_teacher,
    final_accuracy,
    loss_on,
    number_of_classes,
)
from autoprune.errors import RunError, UsageError, shown, spelt
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.scoring import CustomScorer
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.search import OPTIONS, SearchConfig
from autoprune.options.stored import in_todays_words, stored_settings
from autoprune.structure.frozen import excluded_tensors, frozen_tensors
from autoprune.structure.inputs import device_of
from autoprune.structure.surgery import kept_positions
from autoprune.study.reload import load_network
from autoprune.study.result import is_trained, with_training, without_training
from autoprune.study.run_directory import RunDirectory, TrainingPaths
from autoprune.training.augmentation import augmented
from autoprune.training.choices import EPOCHS, OPTIMIZERS, UNCHANGED
from autoprune.training.duration import Duration
from autoprune.training.features import match_features
from autoprune.training.initialization import reinitialize
from autoprune.training.loggers import Log, make_loggers
from autoprune.training.objective import Distillation, Objective, TaskLoss, Teacher
from autoprune.training.processes import Processes
from autoprune.training.random_batches import RandomBatches, mixing
from autoprune.training.trainer import (
    Recipe,
    Trained,
    TrainingFiles,
    TrainingTask,
    Validation,
    train,
)

log = logging.getLogger(__name__)

# Functions of the user's that a training may have, by their fields of the context.
FUNCTIONS = ("loss", "evaluate")
# Validations of a short training, and of one that time limits.
FEWEST_CHECKS, CHECKS_BY_TIME = 4, 10


@dataclass(frozen=True, eq=False)
class FinetuneContext:
    """What is known before fine-tuning.

    Attributes:
        dense: the dense network with its trained weights, in evaluation mode.
        run: the finished run.
        splits: the data, as the network takes them.
        config: the options.
        loss: the user's own; None for cross entropy.
        evaluate: the user's own score; None where networks are judged as classifiers.
        processes: those that train together.
        progress: told how far the training is.
    """

    dense: nn.Module
    run: RunDirectory
    splits: Splits
    config: FinetuneConfig
    loss: TaskLoss | None = None
    evaluate: Evaluate | None = None
    processes: Processes = field(default_factory=Processes)
    progress: Progress = field(default_factory=Progress)

    @property
    def paths(self) -> TrainingPaths:
        """The files of this training."""
        return self.run.training_paths(self.config.from_scratch)

    @property
    def kind(self) -> str:
        """The key of the training in `result.json`."""
        return "from_scratch" if self.config.from_scratch else "finetune"

    @cached_property
    def search(self) -> SearchConfig:
        """The options that the run was searched with."""
        stored = in_todays_words(stored_settings(self.run))
        return SearchConfig.from_mapping({k: v for k, v in stored.items() if k in OPTIONS})


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What fine-tuning ended with.

    Attributes:
        network: the best network.
        result: what is in `result.json`.
    """

    network: nn.Module
    result: Mapping[str, Any]


def check_training(
    run: RunDirectory, config: FinetuneConfig, resume: bool, overwrite: bool
) -> None:
    """Refuse what cannot be begun or gone on with, before anything is loaded.

    Args:
        run: the run directory.
        config: the options of the training.
        resume: whether it goes on.
        overwrite: whether it may replace an earlier one.

    Raises:
        RunError: there is a training already, or none to go on with.
        UsageError: it was begun with other options.
    """
    paths, own = run.training_paths(config.from_scratch), config.to_mapping()
    name = "training from scratch" if config.from_scratch else "fine-tuning"
    if resume:
        stored = run.load_training_config(paths)
        begun = FinetuneConfig.from_mapping(
            {key: value for key, value in stored.items() if key not in FUNCTIONS}
        ).to_mapping()
        for key in sorted(begun.keys() | own.keys()):
            if begun.get(key) != own.get(key):
                raise UsageError(
                    f"cannot resume with {key}={shown(own.get(key))}: this {name} was begun with "
                    f"{shown(begun.get(key))}."
                )
    elif paths.config.exists() and not overwrite:
        raise RunError(
            f"there is a {name} in {str(run.path)!r} already: continue it with "
            f"{spelt('resume', True)}, or replace it with {spelt('overwrite', True)}."
        )


def _begin(context: FinetuneContext, resume: bool) -> None:
    """Write down what a new training is; of one that goes on, check the user's functions.

    Raises:
        UsageError: it was begun with other functions.
    """
    run, paths = context.run, context.paths
    functions = {
        name: object_name(value)
        for name in FUNCTIONS
        if (value := getattr(context, name)) is not None
    }
    if resume:
        stored = run.load_training_config(paths)
        for name in FUNCTIONS:
            if stored.get(name) != functions.get(name):
                raise UsageError(
                    f"cannot resume with {name} {functions.get(name)}: the training was begun with "
                    f"{shown(stored.get(name))}; name that again."
                )
        return
    paths.remove()
    run.save_result(without_training(run.load_result(), context.kind))
    run.save_training_config(paths, {**context.config.to_mapping(), **functions})


def finetune_run(context: FinetuneContext, resume: bool = False) -> Finetuned:
    """Train the network of a run, and hand over the best by the validation images.

    Args:
        context: what is known.
        resume: go on with a training that was interrupted, instead of a new one.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    config, run, processes = context.config, context.run, context.processes
    if resume and is_trained(run.load_result(), context.kind) and not context.paths.goes_on:
        log.info("the %s in %s is finished", context.kind.replace("_", " "), run.path)
        return Finetuned(load_network(context.dense, run), run.load_result())
    small = load_network(context.dense, run, run.searched_weights)
    images = _images(context)
    task = _task(context, images, small)
    recipe = _recipe(config, task.batches.steps_per_epoch)
    trackers = [] if processes.rank else make_loggers(config.logger, run.path, vars(recipe))
    if processes.rank == 0:
        _begin(context, resume)
    processes.agree(None)  # the others wait for the files of an earlier training to go
    history = None if processes.rank else context.paths.history
    step = context.progress.step
    with closing(Log(history, trackers)) as figures:
        done = train(
            task,
            recipe,
            TrainingFiles(context.paths.checkpoint, figures),
            processes,
            lambda share: step("training", round(1000 * share), 1000),
        )
    _tell(done, recipe)
    return _hand_over(context, images, done, task.batches.steps_per_epoch)


def _images(context: FinetuneContext) -> Partition:
    """Return the images as the search had them: those that it scored on are not trained on."""
    own = context.search
    sizes = SplitSizes(own.calibration_samples, own.search_samples, own.selection_samples)
    images = partition(context.splits, sizes, own.seed, note=log.info)
    return images.to(device_of(context.dense))


def _task(context: FinetuneContext, images: Partition, small: nn.Module) -> TrainingTask:
    config, dense, processes = context.config, context.dense, context.processes
    validation = Samples.join([images.search, images.selection])
    classes = number_of_classes(dense, validation, context.loss)
    objective = _objective(context, validation, classes, len(images.recovery))
    if config.distill_features:
        if not config.distill:
            raise UsageError("distill-features are the dense network's: leave out --no-distill.")
        keep = kept_positions(dense, context.run.load_policy())
        inputs = validation.first(2).inputs
        features = match_features(dense, small, keep, inputs, config.distill_features)
        objective = replace(objective, features=features)
    judge: Callable[[nn.Module], Validation]
    if context.evaluate is not None:
        judge = ByScore(CustomScorer(dense, context.evaluate))
    elif classes is None:
        judge = loss_on(validation, objective, dense)
    else:
        scorer = ClassificationScorer(dense, validation, classes=images.classes)
        judge = ByScore(scorer)
        if config.distill:
            check_teacher(scorer.dense.top1, judge(small).figures.get("top1"))
    if (config.mixup or config.cutmix) and context.loss is not None:
        raise UsageError("mixup and cutmix change class labels: leave them out with a loss.")
    mix = mixing(config.mixup, config.cutmix, classes if objective.learns_task else None)
    batches = RandomBatches(
        augmented(images.recovery, config.augment), config.batch, config.seed, mix
    ).shared(processes.rank, processes.count)
    start = reinitialize(small) if config.from_scratch else small
    return TrainingTask(start, batches, objective, judge, _frozen(context))


def _objective(
    context: FinetuneContext, validation: Samples, classes: int | None, count: int
) -> Objective:
    config = context.config
    changes = config.mixup or config.cutmix or config.distill_features
    comes_again = config.augment == UNCHANGED and not changes
    return Objective(
        classes=classes,
        has_labels=validation.targets is not None
        and (context.loss is not None or validation.labelled),
        loss=context.loss,
        label_smoothing=config.label_smoothing,
        teacher=Teacher(context.dense, count if comes_again else 0) if config.distill else None,
        distillation=Distillation(config.distill_weight, config.temperature),
    )


def _frozen(context: FinetuneContext) -> frozenset[str]:
    """Return the tensors that the run leaves as they are; from scratch, all are trained."""
    own = context.search
    if context.config.from_scratch:
        return frozenset()
    kept = frozenset() if own.train_frozen else frozen_tensors(context.dense)
    return kept | excluded_tensors(context.dense, own.exclude)


def _recipe(config: FinetuneConfig, steps_per_epoch: int) -> Recipe:
    epochs = EPOCHS if config.epochs is None and config.time is None else config.epochs
    steps = None if epochs is None else max(1, round(epochs * steps_per_epoch))
    usual = OPTIMIZERS[config.optimizer]
    return Recipe(
        duration=Duration(steps, config.time),
        checks=CHECKS_BY_TIME if epochs is None else max(FEWEST_CHECKS, math.ceil(epochs)),
        optimizer=config.optimizer,
        rate=usual.rate if config.learning_rate is None else config.learning_rate,
        decay=usual.decay if config.weight_decay is None else config.weight_decay,
        warm_up=config.warm_up,
        clip=config.clip,
        ema=config.ema,
        precision=config.precision,
        workers=config.workers,
        seed=config.seed,
    )


def _tell(done: Trained, recipe: Recipe) -> None:
    if done.diverged is not None:
        log.warning(
            "the loss was not finite after %d steps, where training ended: try a learning rate "
            "below %g",
            done.diverged,
            recipe.rate,
        )
    if not done.best_step:
        log.warning(
            "training did not help: on the validation images the network that it began with is "
            "still the best, and stays"
        )


def _hand_over(
    context: FinetuneContext, images: Partition, done: Trained, steps_per_epoch: int
) -> Finetuned:
    """Write the best network, score it, and put the figures into the result."""
    run = context.run
    if context.processes.rank == 0 and done.best_step:
        run.save_training_weights(context.paths, done.network)
    is_scored = done.best_step or context.config.from_scratch
    score = _score(context, images, done) if is_scored else None
    report = {
        "epochs": round(done.steps / steps_per_epoch, 4),
        "steps": done.steps,
        "seconds": round(done.seconds, 3),
        "best_epoch": round(done.best_step / steps_per_epoch, 4),
        "diverged": done.diverged is not None,
        "validation": {"first": dict(done.first.figures), "best": dict(done.best.figures)},
    }
    result = with_training(run.load_result(), context.kind, score, report)
    if context.processes.rank == 0:
        run.save_result(result)
        context.paths.remove_checkpoint()
    return Finetuned(done.network, result)


def _score(context: FinetuneContext, images: Partition, done: Trained) -> float | None:
    if context.evaluate is not None:
        return done.best.value
    if "top1" not in done.best.figures:
        return None
    return final_accuracy(context.dense, done.network, images.test, images.selection)
