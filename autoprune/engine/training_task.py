"""What fine-tuning trains, on what, and how: made of the run, the data and the options."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import nn

from autoprune.core.progress import Progress
from autoprune.core.randomness import kept_random_states
from autoprune.data import Partition, Samples, Splits, SplitSizes, partition
from autoprune.engine.context import Evaluate
from autoprune.engine.validation import ByScore, check_teacher, loss_on, number_of_classes
from autoprune.errors import UsageError, spelt
from autoprune.evaluation.classification import ClassificationScorer
from autoprune.evaluation.scoring import CustomScorer
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.search import OPTIONS, SearchConfig
from autoprune.options.stored import in_todays_words, stored_settings
from autoprune.structure.frozen import (
    excluded_tensors,
    frozen_tensors,
    is_entirely_frozen,
    running_statistics,
)
from autoprune.structure.inputs import device_of, run
from autoprune.structure.output_distance import Distance, output_distance
from autoprune.structure.surgery import Keep
from autoprune.structure.tracing.trace import trace
from autoprune.study.run_directory import RunDirectory
from autoprune.study.training_record import TrainingRecord
from autoprune.training.augmentation import augmented
from autoprune.training.batchnorm_statistics import with_own_statistics
from autoprune.training.choices import EPOCHS, FINETUNING_OPTIMIZERS, UNCHANGED, WHITENED
from autoprune.training.duration import Duration
from autoprune.training.features import match_features
from autoprune.training.initialization import reinitialize
from autoprune.training.objective import Distillation, Objective, TaskLoss, Teacher
from autoprune.training.optimizers import rate_within
from autoprune.training.own_losses import annotations_argument
from autoprune.training.processes import Processes
from autoprune.training.random_batches import RandomBatches, mixing, seed_of
from autoprune.training.trainer import trainable
from autoprune.training.training_values import Recipe, TrainingTask, Validation
from autoprune.training.whitening import whitened

log = logging.getLogger(__name__)

# What is said where the network to be trained was made for inference.
ENTIRELY_FROZEN = (
    "every parameter is frozen (requires_grad=False), as for inference: all of them are trained; "
    "to keep some as they are, freeze only those, or exclude their layers"
)
# Validations of a short training, and of one that time limits.
FEWEST_CHECKS, CHECKS_BY_TIME = 4, 10
# Training samples whose statistics BNs have when training begins.
STATISTICS_SAMPLES = 2000
# Those that inputs of layers are whitened by.
WHITENING_SAMPLES = 256
# A first step moves the outputs by at most this share of their distance from the dense network's.
MOVED = 0.15


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
        distance: the user's own distance of outputs from the dense network's, by which it teaches.
        processes: those that train together.
        progress: told how far the training is.
        part_of: "train" if it is the end of a training with a method, which goes on as a whole.
    """

    dense: nn.Module
    run: RunDirectory
    splits: Splits
    config: FinetuneConfig
    loss: TaskLoss | None = None
    evaluate: Evaluate | None = None
    distance: Distance | None = None
    processes: Processes = field(default_factory=Processes)
    progress: Progress = field(default_factory=Progress)
    part_of: str | None = None

    @property
    def record(self) -> TrainingRecord:
        """What this training leaves behind."""
        return self.run.training(self.config.from_scratch)

    @property
    def kind(self) -> str:
        """The key of the training in `result.json`."""
        return self.config.kind

    @cached_property
    def search(self) -> SearchConfig:
        """The options that the run was searched with."""
        stored = in_todays_words(stored_settings(self.run))
        return SearchConfig.from_mapping({k: v for k, v in stored.items() if k in OPTIONS})


def draw_training_images(context: FinetuneContext) -> Partition:
    """Return the images as the search had them: those that it scored on are not trained on."""
    own = context.search
    sizes = SplitSizes(own.calibration_samples, own.search_samples, own.selection_samples)
    images = partition(context.splits, sizes, own.seed, note=log.info)
    return images.to(device_of(context.dense))


def make_task(
    context: FinetuneContext, images: Partition, small: nn.Module, keep: Keep
) -> TrainingTask:
    """Return what is trained, and what it is judged by.

    Args:
        context: what is known.
        images: as the search had them.
        small: the network that training begins with.
        keep: entries of the dense network's tensors that it has.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    config, processes = context.config, context.processes
    validation = Samples.join([images.search, images.selection])
    classes = number_of_classes(context.dense, validation)
    if classes is None and context.loss is None and validation.labelled:
        log.info("the network is no classifier: it learns from the dense network alone")
    objective = _objective(context, validation, classes, len(images.recovery))
    if config.distill_features:
        objective = _matching_features(context, objective, validation, small, keep)
    validate = _validating(context, images, validation, objective, small)
    if (config.mixup or config.cutmix) and (context.loss or validation.annotations):
        raise UsageError(
            "mixup and cutmix change class labels: leave them out with a loss, or for detectors."
        )
    changed = augmented(images.recovery, config.augment)
    mix = mixing(config.mixup or 0.0, config.cutmix, classes if objective.learns_task else None)
    batches = RandomBatches(changed, config.batch, config.seed, mix)
    own = batches.shared(processes.rank, processes.count)
    task = TrainingTask(small, own, objective, validate, _frozen(context))
    return _begun(context, task, batches, validation.first(1))


def _begun(
    context: FinetuneContext, task: TrainingTask, batches: RandomBatches, sample: Samples
) -> TrainingTask:
    """Return the task from the network that training begins with: one that computes the same.

    Args:
        context: what is known.
        task: of the network as it was cut.
        batches: those of all processes.
        sample: one.
    """
    small, frozen = task.network, task.frozen or frozenset()
    if context.config.from_scratch:
        return replace(task, network=reinitialize(small))
    if context.config.optimizer == WHITENED:
        structure = trace(context.dense, sample.inputs).leaving(frozen)
        start = whitened(small, structure, [*_first(batches, WHITENING_SAMPLES, small)])
        kept = frozen | running_statistics(small)
        return replace(task, network=start.network, frozen=kept, whitening=start)
    kept = frozen | running_statistics(small) if context.config.freeze_batchnorm else frozen
    first = (samples.inputs for samples in _first(batches, STATISTICS_SAMPLES, small))
    return replace(task, network=with_own_statistics(small, first, kept), frozen=kept)


def _matching_features(
    context: FinetuneContext,
    objective: Objective,
    validation: Samples,
    small: nn.Module,
    keep: Keep,
) -> Objective:
    if objective.teacher is None:
        raise UsageError(
            f"{spelt('distill_features')} are the dense network's, which teaches nothing here: "
            "do not turn distillation off, and leave them out for detectors."
        )
    inputs, weight = validation.first(2).inputs, context.config.distill_features
    return replace(objective, features=match_features(context.dense, small, keep, inputs, weight))


def _validating(
    context: FinetuneContext,
    images: Partition,
    validation: Samples,
    objective: Objective,
    small: nn.Module,
) -> Callable[[nn.Module], Validation]:
    """Return what validates a network; a teacher that is clearly worse is refused."""
    if context.evaluate is not None:
        return ByScore(CustomScorer(context.dense, context.evaluate))
    if objective.classes is None:
        return loss_on(validation, objective, context.dense)
    scorer = ClassificationScorer(context.dense, validation, classes=images.classes)
    by_score = ByScore(scorer, objective.distillation.weight if objective.teacher else 0.0)
    if context.config.distill:
        check_teacher(scorer.dense.top1, by_score(small).figures.get("top1"))
    return by_score


def bounded_rate(context: FinetuneContext, task: TrainingTask, rate: float) -> float:
    """Return a learning rate, lowered until a first step moves the network little enough.

    Its outputs are to move by at most `MOVED` of their distance from the dense network's.

    Args:
        context: what is known.
        task: what is trained, in whitened coordinates.
        rate: the largest.
    """
    assert task.whitening is not None
    network, whitening = task.network, task.whitening
    batch = replace(task.batches[0], samples=task.batches[0].samples.to(device_of(network)))
    inputs = batch.samples.inputs
    with torch.no_grad():
        given = run(network, inputs)
        most = MOVED * float(output_distance(given, run(context.dense, inputs)))

    def moved(rate: float) -> float:
        student = trainable(network, task.frozen)
        with torch.enable_grad():
            loss = task.objective(student, batch)
        whitening.optimizer(student).learn(loss, rate)
        with torch.no_grad():
            return float(output_distance(run(student.eval(), inputs), given))

    with kept_random_states():
        torch.manual_seed(seed_of(context.config.seed, 0))
        return rate_within(rate, moved, most)


def _first(batches: RandomBatches, count: int, network: nn.Module) -> Iterator[Samples]:
    """Yield the first training samples, a batch at a time, where the network is."""
    for step in range(min(-(-count // batches.size), batches.steps_per_epoch)):
        yield batches[step].samples.to(device_of(network))


def _objective(
    context: FinetuneContext, validation: Samples, classes: int | None, count: int
) -> Objective:
    config = context.config
    changes = config.mixup or config.cutmix or config.distill_features
    # Of the dense network's outputs only class scores are remembered.
    comes_again = config.augment == UNCHANGED and not changes and context.distance is None
    annotations = annotations_argument(context.dense) if validation.annotations else None
    if annotations and config.distill:
        log.info("the network returns its losses in training: it learns from annotations alone")
    teaches = config.distill and not annotations
    has_targets = validation.targets is not None or validation.annotations is not None
    return Objective(
        classes=classes,
        has_labels=has_targets
        and (context.loss is not None or validation.labelled or annotations is not None),
        loss=context.loss,
        label_smoothing=config.label_smoothing,
        teacher=Teacher(context.dense, count if comes_again else 0) if teaches else None,
        distillation=Distillation(
            config.distill_weight, config.temperature or Distillation.temperature
        ),
        distance=context.distance,
        annotations=annotations,
    )


def _frozen(context: FinetuneContext) -> frozenset[str]:
    """Return what the user froze or excluded; from scratch, all is trained."""
    own, config = context.search, context.config
    if config.from_scratch:
        return frozenset()
    kept = frozenset() if own.train_frozen else frozen_tensors(context.dense)
    if kept and is_entirely_frozen(context.dense):
        log.info(ENTIRELY_FROZEN)
        kept = frozenset()
    return kept | excluded_tensors(context.dense, own.exclude)


def make_recipe(config: FinetuneConfig, steps_per_epoch: int) -> Recipe:
    """Return how it is trained: what the options say, and the usual where they say nothing."""
    epochs = EPOCHS if config.epochs is None and config.time is None else config.epochs
    steps = None if epochs is None else max(1, round(epochs * steps_per_epoch))
    usual = FINETUNING_OPTIMIZERS[config.optimizer]
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
