"""The parts of one search, put together: structure, budget, statistics, evaluator, finalists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autoprune.agents import check_strategy
from autoprune.budget import Budget
from autoprune.config import SearchConfig
from autoprune.cost.counts import COST_MODELS, cost_models
from autoprune.cost.model import CostModel
from autoprune.data import Partition
from autoprune.errors import BudgetError, ModelError, first_line
from autoprune.evaluation.evaluator import Build, Builder, Evaluator, timed
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import Reward
from autoprune.evaluation.scoring import ClassificationScorer, CustomScorer, Scorer
from autoprune.importance import Evidence, Ranking, check_needs, make_importance, rank_groups
from autoprune.progress import Progress
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair
from autoprune.search_spaces.keep_ratio import SearchSpace, match_groups, search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.statistics.collect import collect_moments
from autoprune.strategy import Trial
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs
from autoprune.structure.verify import analyze

# Best trials that are scored again, on images that the search did not see.
FINALISTS = 3
# Calibration samples that BN statistics are re-estimated on.
BATCHNORM_SAMPLES = 500
# The KL that a slower judge must reach, as a share of the quicker one's, to be preferred.
CLEARLY = 0.9

Evaluate = Callable[[nn.Module], float]


def check_config(config: SearchConfig) -> None:
    """Refuse what no network and no image is needed to refuse.

    Raises:
        BudgetError: the budget is malformed, or on a cost that there is no model for.
        UsageError: no such strategy, sampler or importance.
    """
    for name in Budget.parse(config.budget).limits:
        if name not in COST_MODELS:
            known = ", ".join(COST_MODELS)
            raise BudgetError(f"there is no cost model for {name!r}; choose from: {known}.")
    check_strategy(config.strategy, **config.strategy_options)
    make_importance(config.importance)


@dataclass(frozen=True, eq=False)
class Task:
    """What can be chosen and what it costs: everything known before any image is read.

    Attributes:
        structure: verified.
        costs: by name.
        space: allowed widths.
        projection: onto the budget.
    """

    structure: Structure
    costs: Mapping[str, CostModel]
    space: SearchSpace
    projection: Projection


def define_task(
    model: nn.Module, example_inputs: Inputs, config: SearchConfig, progress: Progress
) -> Task:
    """Trace the network and check that the budget can be met.

    Raises:
        ModelError: the network fails, or nothing in it can be pruned.
        BudgetError: the budget is malformed, unknown or out of reach.
        UsageError: a pattern matches nothing.
    """
    budget = Budget.parse(config.budget)
    structure = analyze(model, example_inputs, lambda d, t: progress.step("structure", d, t))
    excluded = match_groups(structure, config.exclude, "exclude")
    structure = structure.frozen_by(dict.fromkeys(excluded, "excluded by the user"))
    if not structure.groups:
        reasons = sorted({frozen.reason for frozen in structure.frozen})
        raise ModelError(
            f"nothing in this network can be pruned: {'; '.join(reasons) or 'it has no layers'}."
        )
    costs = cost_models(structure)
    space = search_space(structure, config.min_keep or None, config.round_to)
    dense = {name: cost.total(structure.dense_widths) for name, cost in costs.items()}
    limits = budget.resolve(dense)
    constraints = [Constraint(costs[name], limit) for name, limit in limits.items()]
    return Task(structure, costs, space, Projection(space, constraints))


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that is needed to build and judge candidates.

    Attributes:
        dense: scores of the dense network on the search split.
        builder: makes networks.
        judge: measures candidates on the search split.
        judge_name: how it repairs them, "one-shot" or "one-shot+batchnorm".
        finals: measure finalists on the selection split, by the kind of repair.
        rankings: which units stay at every width.
        forwards: samples that one measurement by the judge runs through a network.
        judging: measurements that choosing the judge took.
        final_forwards: samples that judging one finalist in every way runs through networks.
    """

    dense: Scores
    builder: Builder
    judge: Evaluator
    judge_name: str
    finals: Mapping[str, Evaluator]
    rankings: Sequence[Ranking]
    forwards: int
    judging: int
    final_forwards: int


def set_up(
    model: nn.Module,
    task: Task,
    images: Partition,
    evaluate: Evaluate | None,
    config: SearchConfig,
    progress: Progress,
    seconds: dict[str, float],
) -> Bench:
    """Gather the dense network's statistics and rank every group's units.

    Raises:
        DataError: the images or labels do not fit the network.
        ModelError: its output is no class scores, and there is no `evaluate`.
        UsageError: the importance needs labels, and there are none.
    """
    criterion = make_importance(config.importance)
    check_needs(criterion, images.calibration)
    search, selection = (
        ClassificationScorer(model, samples) if evaluate is None else CustomScorer(model, evaluate)
        for samples in (images.search, images.selection)
    )
    with timed(seconds, "statistics"):
        moments = collect_moments(
            model,
            task.structure,
            images.calibration,
            config.seed,
            progress=lambda d, t: progress.step("statistics", d, t),
        )
    with timed(seconds, "paths"):
        rankings = rank_groups(
            criterion,
            Evidence(model, task.structure, moments, images.calibration, config.seed),
            lambda d, t: progress.step("paths", d, t),
        )
    builder = Builder(
        model,
        task.structure,
        rankings,
        Refitter(model, task.structure, moments),
        images.calibration.first(BATCHNORM_SAMPLES),
        SequentialRepair(model, task.structure, images.calibration, config.seed),
    )

    def judges(scorer: Scorer, builds: Mapping[str, Build]) -> dict[str, Evaluator]:
        return {
            name: Evaluator(build, scorer, task.costs, task.structure)
            for name, build in builds.items()
        }

    quick = {"one-shot": builder.one_shot, "one-shot+batchnorm": builder.settled}
    with timed(seconds, "judge"):
        name, judge = _choose_judge(judges(search, quick), task)
    finals = judges(selection, {"sequential": builder.sequential, name: quick[name]})
    forwards = search.dense.samples + (BATCHNORM_SAMPLES if "batchnorm" in name else 0)
    final_forwards = len(finals) * selection.dense.samples + len(images.calibration)
    return Bench(
        dense=search.dense,
        builder=builder,
        judge=judge,
        judge_name=name,
        finals=finals,
        rankings=rankings,
        forwards=forwards,
        judging=len(quick),
        final_forwards=final_forwards,
    )


def _choose_judge(judges: Mapping[str, Evaluator], task: Task) -> tuple[str, Evaluator]:
    """Return the first judge, unless a later, slower one is clearly kinder to the uniform cut.

    What BN re-estimation gains over the variances known from the moments differs by network.
    """
    uniform = task.projection.project([1.0] * len(task.space))
    (name, judge), *others = judges.items()
    scores = judge.measure(uniform).scores
    for other_name, other in others:
        theirs = other.measure(uniform).scores
        if _clearly_better(theirs, scores):
            name, judge, scores = other_name, other, theirs
    return name, judge


def _clearly_better(a: Scores, b: Scores) -> bool:
    if a.kl is None or b.kl is None:
        return (a.custom or 0.0) > (b.custom or 0.0)
    return a.kl < CLEARLY * b.kl


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and judged on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        reconstruction: how it was repaired, "sequential" or the judge's name.
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str


def run_off(trials: Sequence[Trial], bench: Bench, reward: Reward, progress: Progress) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Each is repaired in both ways: sequential reconstruction is better by far with enough
    calibration data, and can be worse with little.
    """
    best: Finalist | None = None
    highest, reason = -math.inf, ""
    for done, trial in enumerate(trials):
        for reconstruction, evaluator in bench.finals.items():
            try:
                network, measurement = evaluator.build(trial.candidate.widths)
                value = float(reward(measurement))
            except Exception as error:  # out of memory, or the user's own code
                reason = f"{type(error).__name__}: {first_line(error)}"
                continue
            if value > highest:
                best, highest = Finalist(measurement, network, reconstruction), value
        progress.step("finalists", done + 1, len(trials))
    if best is None:
        raise ModelError(f"every finalist failed on the selection images: {reason or 'NaN'}.")
    return best
