"""A search as it is asked for: all that is known before there is a place to write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from torch import nn

from autoprune.core.notes import forwarded_notes
from autoprune.core.policy import PruningPolicy
from autoprune.core.progress import Progress
from autoprune.data import as_splits
from autoprune.engine.begin import at_once_of, begin_run, is_complete, resume_run
from autoprune.engine.clock import Clock
from autoprune.engine.context import Evaluate, SearchContext
from autoprune.engine.own_code import check_code
from autoprune.engine.pipeline import Groundwork, SearchResult, lay_groundwork, run_search
from autoprune.engine.problem import check_config, check_patterns, under_budget
from autoprune.engine.ray_cluster import Cluster, joined, with_workers
from autoprune.engine.repeat import run_in_rounds
from autoprune.engine.search_images import check_example, draw_images
from autoprune.engine.warm_start import check_warm_start
from autoprune.errors import Interrupted, describe
from autoprune.evaluation.reward import DEFAULT_REWARD, NamedReward, Reward, find_reward
from autoprune.evaluation.scoring import find_distance, find_evaluate
from autoprune.importance.learnt import LearntImportance
from autoprune.options.search import SearchConfig
from autoprune.options.stored import stored_settings
from autoprune.reporting.report import report
from autoprune.structure.inputs import Inputs, adapt_splits, device_of
from autoprune.structure.output_distance import Distance
from autoprune.structure.plain_weights import notes_on_weights, with_plain_weights
from autoprune.structure.surgery import deep_copy, with_own_sizes
from autoprune.structure.wrappers import notes_on_wrappers, plain_network
from autoprune.study.recorded_widths import recorded_widths
from autoprune.study.reload import load_network, load_trained
from autoprune.study.result import is_trained
from autoprune.study.run_directory import RunDirectory
from autoprune.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished search.

    Attributes:
        path: its run directory.
        model: the pruned network, in evaluation mode.
        policy: which units stay.
        result: what is in `result.json`.
    """

    path: Path
    model: nn.Module = field(repr=False)
    policy: PruningPolicy = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class UserFunctions:
    """What a caller values networks by: functions, or their names; None for the defaults.

    Attributes:
        evaluate: the user's own score.
        distance: the user's own distance of outputs from the dense network's.
        reward: the value of a measurement.
    """

    evaluate: Evaluate | str | None = None
    distance: Distance | str | None = None
    reward: Reward | str | None = None


@dataclass(frozen=True, eq=False)
class SearchTask:
    """A search before it has a place to write.

    Attributes:
        model: the dense network, perhaps in a wrapper; it is left as it was.
        data: as `autoprune.search` takes it.
        config: the options.
        reward: the value of a measurement.
        evaluate, distance: the user's own functions, as `SearchContext` has them.
        named: what the caller named, of which code a run may remember.
        progress: told what happens.
        example_inputs: a batch as the network takes it; None for one of the data's.
        origin: where model and data came from.
        cluster: that it runs on; None in this process, or as long as it does not run.
    """

    model: nn.Module
    data: Any
    config: SearchConfig
    reward: NamedReward
    evaluate: Evaluate | None
    distance: Distance | None
    named: Mapping[str, Any]
    progress: Progress
    example_inputs: Inputs | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    cluster: Cluster | None = None

    @cached_property
    def network(self) -> nn.Module:
        """The dense network without wrappers and computed weights."""
        return with_plain_weights(plain_network(self.model))

    def under(self, budget: str) -> SearchTask:
        """Return the same task under another budget."""
        return replace(
            self,
            config=replace(self.config, budget=budget),
            named={**self.named, "budget": budget},
        )

    def going_on(self, stored: Mapping[str, Any]) -> SearchTask:
        """Return the same task with as many candidates at once as it was begun with.

        What is found depends on that number; other workers do not change it. One that was given
        stays, to be compared.

        Args:
            stored: the settings that it was begun with.
        """
        if self.config.at_once is not None:
            return self
        return replace(self, config=replace(self.config, at_once=at_once_of(stored)))

    def settings(self) -> dict[str, Any]:
        """Return what `config.toml` says of it."""
        device = str(device_of(self.network))
        own = self.config.to_mapping()
        return {"autoprune": __version__, **self.origin, "device": device, **own}

    def prepare(self, run: RunDirectory, clock: Clock, begun: Mapping[str, Any]) -> Prepared:
        """Read the images and lay the groundwork, for this task and those under other budgets.

        Args:
            run: beside which a latency table goes, if one is measured.
            clock: told what it takes.
            begun: what was chosen when it was prepared first; empty the first time.
        """
        context = self.context(run, clock, begun)
        return Prepared(context, lay_groundwork(context))

    def run(
        self, run: RunDirectory, clock: Clock, resume: bool = False, given: Prepared | None = None
    ) -> Run:
        """Search, and write the run directory.

        Args:
            run: the directory.
            clock: since when the search has been going on.
            resume: whether it was begun before.
            given: what was prepared for this task under another budget.

        Raises:
            AutopruneError: anything that the user can mend.
            Interrupted: by Ctrl-C.
        """
        (run.load_config if resume else run.check_free)()  # before anything is written
        own = self.going_on(stored_settings(run)) if resume else self
        with forwarded_notes(self.progress), own.placed() as task:
            return task._run(run, clock, resume, given)

    @contextmanager
    def placed(self) -> Iterator[SearchTask]:
        """Give the same task where it runs: in the cluster that the options name, if they do."""
        config = self.config
        device = str(device_of(self.network))
        with joined(config.ray, device, config.gpus_per_worker) as cluster:
            config = with_workers(config, cluster)
            yield replace(self, config=config, cluster=cluster)

    def _run(self, run: RunDirectory, clock: Clock, resume: bool, given: Prepared | None) -> Run:
        settings = self.settings()
        with run.held():
            for text in (*notes_on_wrappers(self.model), *notes_on_weights(self.model)):
                log.info("%s", text)
            begun: dict[str, Any] = {}
            if resume:
                begun = resume_run(run, settings, self.config)
                if self._is_done(run):
                    tuned = self.config.finetune_epochs is not None
                    return load_run(self.network, run, None if tuned else run.searched_weights)
            else:
                if self.config.storage is not None or self.config.warm_from is not None:
                    check_code(self)
                if self.config.warm_from is not None:
                    check_warm_start(self.config.warm_from, settings)
                begin_run(run, {**settings, **self.named})
            context = (
                self.context(run, clock, begun)
                if given is None
                else given.context_of(self.config, run, clock, begun)
            )
            with interruptible(lambda: run.how_to_resume):
                groundwork = lay_groundwork(context) if given is None else given.under(self.config)
                found = self._search(context, groundwork, settings)
            if self.config.report:
                write_report(run)
        return Run(run.path, found.network, found.policy, found.result)

    def is_finished(self, run: RunDirectory) -> bool:
        """Return whether a run has its result, and that of fine-tuning if there is to be any."""
        if self.config.finetune_epochs is None or not run.is_finished:
            return run.is_finished
        return is_trained(run.load_result(), "finetune") and not run.training().goes_on

    def _is_done(self, run: RunDirectory) -> bool:
        """Return, and say, whether nothing is left to do in a run that is to go on."""
        if self.config.finetune_epochs is None:
            return is_complete(run, self.config)
        if self.is_finished(run):
            log.warning("the search in %r is finished, and so is its fine-tuning", str(run.path))
            return True
        return False

    def _search(
        self, context: SearchContext, groundwork: Groundwork, settings: Mapping[str, Any]
    ) -> SearchResult:
        if self.config.finetune_epochs is None:
            return run_search(context, groundwork, settings)
        splits = adapt_splits(as_splits(self.data), context.model)
        return run_in_rounds(context, groundwork, settings, splits)

    def context(
        self, run: RunDirectory, clock: Clock, begun: Mapping[str, Any], annotated: bool = False
    ) -> SearchContext:
        """Return what the stages of the search are given.

        Args:
            run: the directory.
            clock: told what the stages take.
            begun: settings of a run that goes on; empty for a new one.
            annotated: whether annotations of images are kept, which training reads.
        """
        # Optuna announces every trial of ours, and optional packages that it lacks.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        model = with_own_sizes(deep_copy(self.network).eval())
        config = self.config
        starts: tuple[Mapping[str, int], ...] = ()
        if config.from_training is not None:
            trained = RunDirectory(config.from_training)
            load_trained(model, run if run.method.weights_path.exists() else trained)
            scores = LearntImportance(trained.method.load_scores())
            config = replace(config, from_training=None, importance=scores)
            starts = (recorded_widths(trained),)
        images = draw_images(model, self.data, self.config, self.progress, annotated)
        inputs = images.calibration.first(2).inputs
        if self.example_inputs is not None:
            inputs = check_example(model, self.example_inputs, inputs)
        return SearchContext(
            model,
            inputs,
            images,
            config,
            run,
            reward=self.reward,
            evaluate=self.evaluate,
            distance=self.distance,
            begun=begun,
            clock=clock,
            progress=self.progress,
            starts=starts,
            cluster=self.cluster,
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """What searches share that differ by their budgets alone."""

    context: SearchContext
    groundwork: Groundwork

    def context_of(
        self, config: SearchConfig, run: RunDirectory, clock: Clock, begun: Mapping[str, Any]
    ) -> SearchContext:
        """Return the context of one of them."""
        return replace(self.context, config=config, run=run, clock=clock, begun=begun)

    def under(self, config: SearchConfig) -> Groundwork:
        """Return the groundwork of the one with these options.

        Raises:
            BudgetError: its budget is out of reach.
        """
        return replace(self.groundwork, problem=under_budget(self.groundwork.problem, config))


def make_task(
    model: nn.Module,
    data: Any,
    options: Mapping[str, Any],
    functions: UserFunctions,
    progress: Progress,
) -> SearchTask:
    """Return the task that a caller means; mistakes that need no image are found.

    Args:
        model: the dense network, perhaps in a wrapper.
        data: as `autoprune.search` takes it.
        options: fields of `SearchConfig`.
        functions: what networks are valued by.
        progress: told what happens.

    Raises:
        UsageError: an option is unknown or cannot be meant.
        BudgetError: the budget is malformed or missing.
    """
    reward = functions.reward
    valued = find_reward(DEFAULT_REWARD if reward is None else reward)
    own = {"evaluate": functions.evaluate, "distance": functions.distance}
    names = {option: value for option, value in own.items() if isinstance(value, str)}
    config = SearchConfig.from_mapping({**options, "reward": valued.name, **names})
    evaluate, distance = find_evaluate(functions.evaluate), find_distance(functions.distance)
    check_config(config)
    named = {**options, "reward": reward}
    task = SearchTask(model, data, config, valued, evaluate, distance, named, progress)
    check_patterns(task.network, config)
    return task


def load_run(network: nn.Module, run: RunDirectory, weights: str | None) -> Run:
    """Return a finished search from its directory, with some of its weights."""
    pruned = load_network(network, run, weights)
    return Run(run.path, pruned, run.load_policy(), run.load_result())


@contextmanager
def interruptible(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Around work that Ctrl-C may end: what follows is one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(how_to_go_on()) from None


def write_report(run: RunDirectory) -> None:
    """Write the page of a run that is finished: whatever happens, the run is not lost for it."""
    try:
        report(run.path)
    except (Exception, KeyboardInterrupt) as error:
        log.warning("the report cannot be written: %s", describe(error))
