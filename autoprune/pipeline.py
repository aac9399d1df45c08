"""The parts of one search, put together: structure, budget, statistics, evaluator, finalists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autoprune.budget import Budget
from autoprune.config import SearchConfig
from autoprune.cost.counts import cost_models
from autoprune.cost.model import CostModel
from autoprune.data import Partition, Samples, check_labels
from autoprune.errors import BudgetError, ModelError
from autoprune.evaluation.evaluator import Builder, Evaluator, timed
from autoprune.evaluation.measurement import Measurement
from autoprune.evaluation.reward import Reward
from autoprune.evaluation.scoring import ClassificationScorer, CustomScorer, Scorer
from autoprune.importance import Evidence, Ranking, make_importance
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
FINALISTS = 5
# Calibration samples that BN statistics are re-estimated on.
BATCHNORM_SAMPLES = 500

Evaluate = Callable[[nn.Module], float]


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
    for name in budget.limits:
        if name not in costs:
            raise BudgetError(f"no cost model for {name!r}; choose from: {', '.join(costs)}.")
    space = search_space(structure, config.min_keep or None, config.round_to)
    dense = {name: cost.total(structure.dense_widths) for name, cost in costs.items()}
    limits = budget.resolve(dense)
    constraints = [Constraint(costs[name], limit) for name, limit in limits.items()]
    return Task(structure, costs, space, Projection(space, constraints))


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that is needed to build and judge candidates.

    Attributes:
        builder: makes networks.
        evaluator: judges them on the search split.
        rankings: which units stay at every width.
        forwards_per_evaluation: samples that one evaluation runs through a network.
    """

    builder: Builder
    evaluator: Evaluator
    rankings: Sequence[Ranking]
    forwards_per_evaluation: int


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
        UsageError: no such importance.
    """
    importance = make_importance(config.importance)
    scorer = make_scorer(model, images.search, evaluate)
    with timed(seconds, "statistics"):
        moments = collect_moments(
            model,
            task.structure,
            images.calibration,
            config.seed,
            progress=lambda d, t: progress.step("statistics", d, t),
        )
    rankings = []
    with timed(seconds, "paths"):
        evidence = Evidence(model, task.structure, moments)
        for done, group in enumerate(task.structure.groups):
            rankings.append(importance.rank(group, evidence))
            progress.step("paths", done + 1, len(task.structure.groups))
    bn_samples = images.calibration.first(BATCHNORM_SAMPLES)
    builder = Builder(
        model,
        task.structure,
        rankings,
        Refitter(model, task.structure, moments),
        bn_samples,
        SequentialRepair(model, task.structure, images.calibration, config.seed),
    )
    evaluator = Evaluator(builder, scorer, task.costs, task.structure)
    forwards = len(bn_samples) + scorer.dense.samples
    return Bench(builder, evaluator, rankings, forwards)


def make_scorer(model: nn.Module, samples: Samples, evaluate: Evaluate | None) -> Scorer:
    """Return what judges networks on these samples.

    Raises:
        DataError, ModelError: as for `set_up`.
    """
    if evaluate is not None:
        return CustomScorer(model, evaluate)
    scorer = ClassificationScorer(model, samples)
    check_labels(samples, scorer.classes)
    return scorer


@dataclass(frozen=True, eq=False)
class Finalist:
    """A candidate that was built with care and judged on fresh images.

    Attributes:
        measurement: on the selection split.
        network: the pruned network.
        reconstruction: how it was repaired, "sequential" or "one-shot".
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    task: Task,
    scorer: Scorer,
    reward: Reward,
    progress: Progress,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Each is repaired in both ways: sequential reconstruction is better by far with enough
    calibration data, and can be worse with little.
    """
    evaluator = Evaluator(bench.builder, scorer, task.costs, task.structure)
    ways = {"sequential": bench.builder.sequential, "one-shot": bench.builder.one_shot}
    best: Finalist | None = None
    for done, trial in enumerate(trials):
        for reconstruction, build in ways.items():
            network = build(trial.candidate.widths)
            measurement = evaluator.measure_network(network, trial.candidate.widths)
            finalist = Finalist(measurement, network, reconstruction)
            if best is None or reward(measurement) > reward(best.measurement):
                best = finalist
        progress.step("finalists", done + 1, len(trials))
    assert best is not None
    return best
