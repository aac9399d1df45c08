"""Training with a method, the cut by what it learnt, and fine-tuning: one run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from autoprune.agents.config import stored
from autoprune.agents.global_ranking import threshold
from autoprune.data import Samples
from autoprune.data.splits import SamplesSplit
from autoprune.engine.begin import begin_run, versions
from autoprune.engine.clock import Clock
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import make_evaluators
from autoprune.engine.finetune import check_training, finetune_run
from autoprune.engine.pipeline import Groundwork, SearchResult, run_search
from autoprune.engine.problem import PruningProblem, make_problem
from autoprune.engine.train_context import TrainContext
from autoprune.engine.training_task import ENTIRELY_FROZEN, make_recipe, make_task
from autoprune.engine.validation import figures_of, number_of_classes
from autoprune.errors import AutopruneError, DataError, first_line, user_code
from autoprune.evaluation.outputs import score_on_split
from autoprune.evaluation.scoring import CustomScorer
from autoprune.importance.learnt import LearntImportance
from autoprune.methods.base import Goal, Scores, TrainingMethod
from autoprune.structure.frozen import freeze_only, is_entirely_frozen
from autoprune.structure.inputs import run as outputs_with
from autoprune.structure.output_distance import output_distance
from autoprune.structure.surgery import deep_copy
from autoprune.study.recorded_widths import allowed_widths_in
from autoprune.study.reload import load_network
from autoprune.training.loggers import Log, make_loggers
from autoprune.training.trainer import train, trainable
from autoprune.training.training_values import Recipe, Trained, TrainingFiles, TrainingTask

log = logging.getLogger(__name__)

# Samples on which a network is compared with the one that it was merged from.
COMPARED = 256
# A merge that is to lose nothing, and changes outputs by more than this share of their variance,
# came too early: the repair of the cut then does better from the network as it was trained.
MERGE_HOLDS = 0.01
# The key of the training in result.json.
KEY = "train"


@dataclass(frozen=True, eq=False)
class Shaped:
    """What training with a method ended with.

    Attributes:
        network: the plain network.
        method: as it was when that was validated.
        done: the figures of the training; None without epochs.
        steps_per_epoch: of the training.
        compared: samples on which it is compared with its merged network.
    """

    network: nn.Module
    method: TrainingMethod
    done: Trained | None
    steps_per_epoch: int
    compared: Samples

    @cached_property
    def merged(self) -> nn.Module:
        """The network in which units that are to go do nothing."""
        return self.method.merge(deep_copy(self.network))

    @property
    def to_cut(self) -> nn.Module:
        """The network that is cut: merged, if that hardly changes anything."""
        is_merged = self.remaining is not None and self.remaining <= MERGE_HOLDS
        return self.merged if is_merged else self.network

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by their names in the result."""
        return {"trained": self.network, **({"merged": self.merged} if self.method.merges else {})}

    @cached_property
    def remaining(self) -> float | None:
        """How far outputs are from where the cut would lose nothing; None if unpromised.

        0: units that go do nothing already, but for the constants that BNs make of filters of zero,
        which the repair moves into biases; about 1: nothing in common is left.
        """
        if not self.method.merges:
            return None
        with torch.no_grad():
            outputs = [
                outputs_with(one, self.compared.inputs) for one in (self.merged, self.network)
            ]
        return float(output_distance(*outputs))

    def report(self) -> dict[str, Any]:
        """Return what `result.json` says of it."""
        done = self.done
        steps = 0 if done is None else done.steps
        return {
            "method": self.method.title,
            "options": stored(self.method.config),
            "epochs": round(steps / self.steps_per_epoch, 4),
            "steps": steps,
            "seconds": 0.0 if done is None else round(done.seconds, 3),
            "diverged": done is not None and done.diverged is not None,
            "remaining": self.remaining,
            **self.method.figures(self.to_cut),
        }


def run_training(context: TrainContext, resume: bool = False) -> SearchResult:
    """Train, cut and fine-tune; what each part ends with is in the run directory at once.

    Args:
        context: what is known.
        resume: whether it was begun before.

    Raises:
        AutopruneError: anything that the user can mend.
    """
    run = context.run
    begun = run.load_config() if resume else {**context.settings(), "versions": versions()}
    clock = Clock(time.monotonic(), recovery=0.0)
    search = context.cut.context(run, clock, begun, annotated=True)
    if is_entirely_frozen(context.model) and not context.config.train_frozen:
        log.info(ENTIRELY_FROZEN)
    if not (run.is_finished and KEY in run.load_result()):
        problem = make_problem(search)
        method = context.method.prepared(_goal(context, search, problem))
        shaped = _shape(context, search, method)
        run.method.save_weights(shaped.to_cut)
        found = run_search(*_cutting(search, problem, shaped), begun)
        scores = _scores(search, {**shaped.networks(), "cut": found.network})
        done = {KEY: {**shaped.report(), **scores}}
        run.save_result({**_beside_given(found.result, scores["scores"]), **done})
        run.method.remove_checkpoint()
    return _finetune(context, search.model)


@contextmanager
def _written_down(context: TrainContext, settings: Mapping[str, Any]) -> Iterator[None]:
    """Write down what a new training is; if it cannot begin inside, that is taken back."""
    run = context.run
    is_new = not run.config_path.exists()
    if is_new:
        begin_run(run, settings)
        # The directory counts as a run once config.toml is there.
        run.method.save_config(context.options())
        run.save_config(settings)
    try:
        yield
    except Exception:
        if is_new:
            run.method.remove()
            run.discard()
        raise


def _goal(context: TrainContext, search: SearchContext, problem: PruningProblem) -> Goal:
    projection = problem.projection
    classes = number_of_classes(search.model, search.images.selection)
    goal = Goal(
        problem.structure, search.model, classes=classes, seed=context.config.seed,
        samples=search.images.calibration,
    )  # fmt: skip
    if context.widths is not None:
        whose = f"the run in {context.config.widths_from!r}"
        widths = allowed_widths_in(problem.space, context.widths, whose)
        return replace(goal, widths=widths, below_threshold=lambda scores: widths)
    if not projection.constraints:
        return goal

    def below_threshold(scores: Scores) -> tuple[int, ...]:
        return threshold(projection, [one.numpy() for one in scores])

    return replace(goal, widths=projection.uniform(), below_threshold=below_threshold)


def _shape(context: TrainContext, search: SearchContext, method: TrainingMethod) -> Shaped:
    """Train with the method, from its checkpoint if there is one."""
    epochs, record = context.config.epochs_before, context.run.method
    own = context.training(search.model, context.config.shaping())
    with _written_down(context, search.begun):
        task = replace(make_task(own, search.images, search.model, {}), hooks=method)
        steps, compared = task.batches.steps_per_epoch, search.images.selection.first(COMPARED)
        # A moving average of weights is no state of the method's: it is for fine-tuning alone.
        recipe = replace(make_recipe(own.config, steps), ema=0.0)
        if not epochs:
            return Shaped(_untrained(task), method, None, steps, compared)
        trackers = make_loggers(
            own.config.logger, context.run.path, {"training": KEY, **vars(recipe)}
        )
    with closing(Log(record.history_path, trackers)) as figures:
        done = train(
            task,
            recipe,
            TrainingFiles(record.checkpoint_path, figures),
            progress=lambda share: context.progress.step("training", round(1000 * share), 1000),
        )
    _tell(done, recipe)
    if not done.best_step:  # it diverged before the first validation
        return Shaped(_untrained(task), method, done, steps, compared)
    return Shaped(_as_trained(done.network, task), method, done, steps, compared)


def _as_trained(network: nn.Module, task: TrainingTask) -> nn.Module:
    """Return the network so that a method merges and scores whatever training could change."""
    freeze_only(network, task.frozen or ())
    return network


def _untrained(task: TrainingTask) -> nn.Module:
    network = trainable(task.network, task.frozen)
    task.hooks.start(network)
    return task.hooks.finish(network.eval())


def _tell(done: Trained, recipe: Recipe) -> None:
    if done.diverged is not None:
        log.warning(
            "the loss was not finite after %d steps, where training ended: the network is cut as "
            "it was after %d steps; try a learning rate below %g",
            done.diverged,
            done.best_step,
            recipe.rate,
        )


def _cutting(
    search: SearchContext, problem: PruningProblem, shaped: Shaped
) -> tuple[SearchContext, Groundwork]:
    """Return what the pipeline is given to cut the trained network by what was learnt."""
    structure = problem.structure
    if not shaped.method.is_repaired:
        problem = replace(problem, structure=structure.leaving(frozenset(structure.shapes)))
    scores = dict(zip(structure.index, shaped.method.scores(shaped.to_cut), strict=True))
    search.run.method.save_scores(scores)
    config = replace(search.config, importance=LearntImportance(scores))
    own = replace(search, model=shaped.to_cut, config=config)
    return own, Groundwork(problem, make_evaluators(own, problem))


def _scores(search: SearchContext, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the scores of the given network and of others on the same samples."""
    given, others = search.model, [deep_copy(one) for one in networks.values()]
    score = partial(score_on_split, given, others)
    if search.evaluate is not None:
        scorer = CustomScorer(given, search.evaluate)
        found, split = [scorer.dense, *map(scorer.score, others)], "user"
    else:
        try:
            if search.images.test is None:
                raise DataError("there is no test split")
            with user_code(DataError, passes=(AutopruneError,)):
                found, split = score(search.images.test), "test"
        except AutopruneError as error:
            log.info("scores are those of the selection samples: %s", first_line(error))
            found, split = score(SamplesSplit(search.images.selection)), "selection"
    names = ("given", *networks)
    figures = {name: figures_of(one) for name, one in zip(names, found, strict=True)}
    return {"scores": figures, "split": split}


def _beside_given(
    result: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return a result that compares with the given network, where the cut did with the trained."""
    figure = "top1" if result["score"]["metric"] == "top1" else "score"
    dense, kl = scores["given"].get(figure), scores["cut"].get("kl")
    return {**result, "score": {**result["score"], "dense": dense, "kl": kl}}


def _finetune(context: TrainContext, given: nn.Module) -> SearchResult:
    """Train the cut network for the remaining epochs; the given network is its teacher."""
    run, epochs = context.run, context.config.epochs_after
    policy = run.load_policy()
    if not epochs:
        return SearchResult(load_network(given, run), policy, run.load_result())
    own = context.training(given, context.config.finetuning())
    goes_on = run.training().is_begun
    check_training(run, own.config, goes_on, overwrite=False, part_of=own.part_of)
    done = finetune_run(own, goes_on)
    return SearchResult(done.network, policy, done.result)
