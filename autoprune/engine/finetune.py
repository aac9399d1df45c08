"""Fine-tuning of a finished run's network, with the dense network as its teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autoprune.core.plugins import object_name
from autoprune.data import Partition
from autoprune.engine.training_choices import with_choices
from autoprune.engine.training_task import (
    FinetuneContext,
    bounded_rate,
    draw_training_images,
    make_recipe,
    make_task,
)
from autoprune.engine.validation import final_scores
from autoprune.errors import RunError, UsageError, shown, spelt
from autoprune.evaluation.measurement import Scores
from autoprune.options.finetune import FinetuneConfig
from autoprune.structure.surgery import kept_positions
from autoprune.study.reload import load_network
from autoprune.study.result import is_trained, with_training, without_training
from autoprune.study.run_directory import RunDirectory
from autoprune.study.training_record import TrainingRecord
from autoprune.training.kept_zeros import KeptZeros
from autoprune.training.loggers import Log, make_loggers
from autoprune.training.trainer import train
from autoprune.training.training_values import Recipe, Trained, TrainingFiles, TrainingTask

log = logging.getLogger(__name__)

# Functions of the user's that a training may have, by their fields of the context.
FUNCTIONS = ("loss", "evaluate", "distance")
# The key of a training's file that says what it is the end of, and the value for `autoprune train`.
PART_OF, TRAIN = "part_of", "train"


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
    run: RunDirectory,
    config: FinetuneConfig,
    resume: bool,
    overwrite: bool,
    part_of: str | None = None,
) -> None:
    """Refuse what cannot be begun or gone on with, before anything is loaded.

    Args:
        run: the run directory.
        config: the options of the training.
        resume: whether it goes on.
        overwrite: whether it may replace an earlier one.
        part_of: what it is the end of, as the context has it.

    Raises:
        RunError: there is a training already, or none to go on with.
        UsageError: it was begun with other options, or as the end of a training with a method,
            whose teacher is not in the run.
    """
    record, own = run.training(config.from_scratch), config.to_mapping()
    name = config.title
    if resume:
        stored = record.load_config()
        is_whole = stored.get(PART_OF) in (None, part_of) or is_trained(
            run.load_result(), config.kind
        )
        if not is_whole:
            raise UsageError(
                f"this {name} is the end of a training with a method, whose teacher is the network "
                f"that was given: continue it with: {run.method.resume_command}"
            )
        begun = FinetuneConfig.from_mapping(stored_training(record)).to_mapping()
        for key in sorted((begun.keys() | own.keys()) - {"logger"}):  # which changes no weight
            if begun.get(key) != own.get(key):
                raise UsageError(
                    f"cannot resume with {key}={shown(own.get(key))}: this {name} was begun with "
                    f"{shown(begun.get(key))}."
                )
    elif record.is_begun and not overwrite:
        raise RunError(
            f"there is a {name} in {str(run.path)!r} already: continue it with "
            f"{spelt('resume', True)}, or replace it with {spelt('overwrite', True)}."
        )


def stored_training(record: TrainingRecord) -> dict[str, Any]:
    """Return the options that a training was begun with."""
    stored = record.load_config()
    return {key: value for key, value in stored.items() if key not in (*FUNCTIONS, PART_OF)}


def _functions(context: FinetuneContext) -> dict[str, str]:
    """Return the names of the user's functions."""
    own = {name: getattr(context, name) for name in FUNCTIONS}
    return {name: object_name(value) for name, value in own.items() if value is not None}


def _check_functions(context: FinetuneContext) -> None:
    """Refuse to go on with other functions of the user's than a training was begun with.

    Raises:
        UsageError: these are others.
    """
    stored, functions = context.record.load_config(), _functions(context)
    for name in FUNCTIONS:
        if stored.get(name) != functions.get(name):
            raise UsageError(
                f"cannot resume with {name} {functions.get(name)}: the training was begun with "
                f"{shown(stored.get(name))}; name that again."
            )


def _begin(context: FinetuneContext) -> None:
    """Write down what a new training is."""
    run, record = context.run, context.record
    record.remove()
    run.save_result(without_training(run.load_result(), context.kind))
    part = {} if context.part_of is None else {PART_OF: context.part_of}
    record.save_config({**context.config.to_mapping(), **_functions(context), **part})


def finetune_run(context: FinetuneContext, resume: bool = False) -> Finetuned:
    """Train the network of a run, and hand over the best by the validation images.

    Args:
        context: what is known.
        resume: go on with a training that was interrupted, instead of a new one.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    config, run, processes = context.config, context.run, context.processes
    if resume and is_trained(run.load_result(), context.kind) and not context.record.goes_on:
        log.info("the %s of the run in %r is finished", config.title, str(run.path))
        return Finetuned(load_network(context.dense, run, _handed_over(context)), run.load_result())
    if resume:
        _check_functions(context)
    small = load_network(context.dense, run, run.searched_weights)
    images = draw_training_images(context)
    task, recipe = _prepared(context, images, small)
    options = {"training": context.kind, **vars(recipe)}
    trackers = [] if processes.rank else make_loggers(config.logger, run.path, options)
    if processes.rank == 0 and not resume:
        _begin(context)
    processes.agree(None)  # the others wait for the files of an earlier training to go
    history = None if processes.rank else context.record.history_path
    step = context.progress.step
    with closing(Log(history, trackers)) as figures:
        done = train(
            task,
            recipe,
            TrainingFiles(context.record.checkpoint_path, figures),
            processes,
            lambda share: step("training", round(1000 * share), 1000),
        )
    if task.whitening is not None:
        own = task.whitening.unfolded(done.network) if done.best_step else small
        done = replace(done, network=own)
    _tell(done, recipe)
    how = {"optimizer": recipe.optimizer, "learning_rate": recipe.rate}
    return _hand_over(context, images, done, task.batches.steps_per_epoch, how)


def _prepared(
    context: FinetuneContext, images: Partition, small: nn.Module
) -> tuple[TrainingTask, Recipe]:
    """Return what is trained, and how."""
    run, chosen = context.run, with_choices(context, images)
    task = make_task(chosen, images, small, kept_positions(context.dense, run.load_policy()))
    if (sparsity := run.load_result().get("train", {}).get("sparsity")) is not None:
        task = replace(task, hooks=KeptZeros(small, sparsity["sparse_weights"]))
    recipe = make_recipe(chosen.config, task.batches.steps_per_epoch)
    if task.whitening is not None and chosen.config.learning_rate is None:
        rate = bounded_rate(chosen, task, recipe.rate)
        recipe = replace(recipe, rate=context.processes.agree(rate))
    return task, recipe


def _handed_over(context: FinetuneContext) -> str:
    """Return which weights a finished training handed over."""
    if not context.record.weights_path.exists():
        return context.run.searched_weights
    return "from_scratch" if context.config.from_scratch else "finetuned"


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
    context: FinetuneContext,
    images: Partition,
    done: Trained,
    steps_per_epoch: int,
    how: Mapping[str, Any],
) -> Finetuned:
    """Write the best network, score it, and put the figures into the result."""
    run = context.run
    if context.processes.rank == 0 and done.best_step:
        context.record.save_weights(done.network)
    is_scored = done.best_step or context.config.from_scratch
    scores = _score(context, images, done) if is_scored else None
    report = {
        **how,
        "epochs": round(done.steps / steps_per_epoch, 4),
        "steps": done.steps,
        "seconds": round(done.seconds, 3),
        "best_epoch": round(done.best_step / steps_per_epoch, 4),
        "diverged": done.diverged is not None,
        "validation": {"first": dict(done.first.figures), "best": dict(done.best.figures)},
    }
    result = with_training(run.load_result(), context.kind, scores, report)
    if context.processes.rank == 0:
        run.save_result(result)
        context.record.remove_checkpoint()
    return Finetuned(done.network, result)


def _score(context: FinetuneContext, images: Partition, done: Trained) -> Scores | None:
    if context.evaluate is not None:
        return Scores(custom=done.best.value)
    if "kl" not in done.best.figures:  # no classifier
        return None
    return final_scores(context.dense, done.network, images.test, images.selection)
