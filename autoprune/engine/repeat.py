"""A search in rounds: cut some, fine-tune, and cut again, until the budget is reached.

Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3:
pruning and retraining in turns reaches sparser networks than one cut.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from autoprune.cost.budget import Budget
from autoprune.data import Splits
from autoprune.engine.begin import LIMITS, asks_for_more, versions
from autoprune.engine.clock import Clock
from autoprune.engine.context import SearchContext
from autoprune.engine.evaluators import make_evaluators
from autoprune.engine.finetune import check_training, finetune_run, stored_training
from autoprune.engine.pipeline import Groundwork, SearchResult, run_search
from autoprune.engine.problem import PruningProblem, under_budget
from autoprune.engine.training_task import FinetuneContext
from autoprune.errors import UsageError, spelt
from autoprune.options.finetune import FinetuneConfig
from autoprune.options.search import SearchConfig
from autoprune.structure.dense_shape import embedded
from autoprune.study.reload import load_network
from autoprune.study.run_directory import RunDirectory

log = logging.getLogger(__name__)

# The folder of the runs of earlier rounds, and the key of `result.json` that says what they found.
ROUNDS = "rounds"


def run_in_rounds(
    context: SearchContext, groundwork: Groundwork, settings: Mapping[str, Any], splits: Splits
) -> SearchResult:
    """Search, cut and fine-tune in every round; the last one is the run.

    A round cuts the fine-tuned network of the one before, in the dense network's shape, so that
    networks are compared with the dense one, and taught by it, in all of them. Earlier rounds are
    run directories inside that of the run. What was begun is gone on with.

    Args:
        context: of the search.
        groundwork: of the dense network.
        settings: what `config.toml` says of a new run.
        splits: the data, as the network takes them.

    Raises:
        UsageError: the dense network's shape cannot hold what a cut network computes: layers get a
            bias, or are rescaled.
    """
    count = context.config.rounds or 1
    if count > 1:
        _check(groundwork.problem)
        if not context.begun:
            context = replace(context, begun={**settings, "versions": versions()})
            context.run.create(context.begun)
    shares = _shares(context.config, groundwork.problem)
    source: nn.Module | None = None
    done: list[Mapping[str, Any]] = []
    for number in range(1, count):
        budget = ",".join(f"{name}={one ** (number / count):.6g}" for name, one in shares.items())
        own = _of_round(context, number, budget)
        log.info("round %d of %d: %s", number, count, budget)
        said = {key: one for key, one in settings.items() if key not in (ROUNDS, "finetune_epochs")}
        _cut(own, _laid(own, groundwork, source), {**said, "budget": budget})
        tuned = _tune(own, context.config, splits)
        source = embedded(context.model, tuned.network, tuned.policy)
        done.append({"budget": budget, "score": tuned.result["score"]})
    last = replace(context, clock=_clock(context.config)) if done else context
    _cut(last, _laid(last, groundwork, source), settings)
    if done:  # before fine-tuning, which may be killed
        context.run.save_result({**context.run.load_result(), ROUNDS: done})
    return _tune(last, context.config, splits)


def _check(problem: PruningProblem) -> None:
    for group in problem.structure.groups:
        if operators := problem.structure.rescaled_by(group):
            raise UsageError(
                f"{spelt(ROUNDS)} need channels that nothing rescales once some are cut; those of "
                f"{group.name!r} pass {', '.join(operators)}: exclude them, or search in one round."
            )
    read = {part.tensor for group in problem.structure.groups for part in group.consumers}
    for layer in problem.structure.layers:
        if layer.weight in read and layer.refittable and not layer.absorbs_mean:
            raise UsageError(
                f"{spelt(ROUNDS)} need a bias or a BN behind every layer that reads what is cut; "
                f"{layer.name!r} has neither: search in one round."
            )


def _shares(config: SearchConfig, problem: PruningProblem) -> dict[str, float]:
    """Return the bounds as shares of the dense network's costs."""
    sizes = problem.structure.dense_widths
    dense = {name: cost.total(sizes) for name, cost in problem.costs.items()}
    limits = Budget.parse(config.budget).resolve(dense)
    return {name: min(limit / dense[name], 1.0) for name, limit in limits.items()}


def _clock(config: SearchConfig) -> Clock:
    return Clock(time.monotonic(), config.time, config.recover)


def _of_round(context: SearchContext, number: int, budget: str) -> SearchContext:
    run = RunDirectory(context.run.path / ROUNDS / str(number))
    run.path.parent.mkdir(exist_ok=True)
    begun = run.load_config() if run.config_path.exists() else {}
    config = replace(context.config, budget=budget, rounds=None, finetune_epochs=None)
    return replace(context, run=run, config=config, begun=begun, clock=_clock(config))


def _laid(context: SearchContext, groundwork: Groundwork, source: nn.Module | None) -> Groundwork:
    """Return the groundwork of a round, whose candidates are cut out of the network before it."""
    problem = under_budget(groundwork.problem, context.config)
    if context.run.is_finished or source is None:
        return replace(groundwork, problem=problem)
    return Groundwork(problem, make_evaluators(context, problem, source))


def _cut(context: SearchContext, groundwork: Groundwork, settings: Mapping[str, Any]) -> None:
    run = context.run
    if not run.is_finished:
        run_search(context, groundwork, settings)
    elif asks_for_more(run, context.config):
        log.warning(
            "the search in %r is finished, and its network is being fine-tuned: %s, %s and %s stay "
            "as they were",
            str(run.path),
            *map(spelt, LIMITS),
        )


def _tune(context: SearchContext, config: SearchConfig, splits: Splits) -> SearchResult:
    """Fine-tune the network of a round, with the dense one as its teacher."""
    run = context.run
    if not config.finetune_epochs:
        return SearchResult(load_network(context.model, run), run.load_policy(), run.load_result())
    goes_on = run.training().is_begun
    # One that goes on does so as it was begun, perhaps with the defaults of an earlier version.
    begun = stored_training(run.training()) if goes_on else {}
    asked = {"epochs": config.finetune_epochs, "seed": config.seed, "logger": config.logger}
    training = FinetuneConfig.from_mapping({**begun, **asked})
    check_training(run, training, goes_on, overwrite=False)
    own = FinetuneContext(
        context.model, run, splits, training, None, context.evaluate, context.distance,
        progress=context.progress,
    )  # fmt: skip
    done = finetune_run(own, goes_on)
    return SearchResult(done.network, run.load_policy(), done.result)
