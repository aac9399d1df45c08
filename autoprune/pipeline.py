"""The parts of one search, put together: structure, budget, statistics, evaluator, finalists."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.agents import check_strategy, check_unbounded
from autoprune.budget import Budget
from autoprune.config import SearchConfig
from autoprune.cost import COST_MODELS, cost_models
from autoprune.cost.model import CostModel
from autoprune.data import Partition
from autoprune.errors import BudgetError, ModelError, RewardError, RunError, first_line
from autoprune.evaluation.evaluator import Build, Builder, Evaluator, timed
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.evaluation.reward import (
    BUILT_IN,
    Reward,
    check_costs,
    check_labels,
    needs_no_budget,
)
from autoprune.evaluation.scoring import ClassificationScorer, CustomScorer, Scorer
from autoprune.importance import Evidence, Ranking, check_needs, make_importance, rank_groups
from autoprune.progress import Progress
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import ACTIVATION_BYTES, SequentialRepair
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
        BudgetError: the budget is malformed, missing, or on a cost that there is no model for.
        UsageError: no such strategy, sampler or importance, or one that needs a budget or a cost.
    """
    limits = Budget.parse(config.budget).limits
    for name in limits:
        if name not in COST_MODELS:
            known = ", ".join(COST_MODELS)
            raise BudgetError(f"there is no cost model for {name!r}; choose from: {known}.")
    check_strategy(config.strategy, **config.strategy_options)
    make_importance(config.importance)
    check_costs(config.reward, COST_MODELS)
    if not limits:
        if config.reward in BUILT_IN and not needs_no_budget(config.reward):
            raise BudgetError(
                f"the reward {config.reward!r} needs a budget, e.g. flops=0.5: without one it "
                "leaves the network whole; accuracy_flops needs none."
            )
        check_unbounded(config.strategy)


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
    structure = prunable_structure(model, example_inputs, config.exclude, progress)
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


def prunable_structure(
    model: nn.Module, example_inputs: Inputs, exclude: Sequence[str], progress: Progress
) -> Structure:
    """Trace and verify the network; what matches a pattern to exclude is frozen."""
    structure = analyze(model, example_inputs, lambda d, t: progress.step("structure", d, t))
    excluded = match_groups(structure, exclude, "exclude")
    return structure.frozen_by(dict.fromkeys(excluded, "excluded by the user"))


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that is needed to build and judge candidates.

    Attributes:
        dense: scores of the dense network on the search split.
        builder: makes networks.
        judge: measures candidates on the search split.
        judge_name: how it repairs them, "one-shot" or "one-shot+batchnorm".
        finals: measure finalists on the selection split, by the kind of repair, quickest first.
        rankings: which units stay at every width.
        forwards: samples that one measurement by the judge runs through a network.
        judging: measurements that choosing the judge takes.
        final_forwards: samples that judging a finalist runs through networks, by kind of repair.
    """

    dense: Scores
    builder: Builder
    judge: Evaluator
    judge_name: str
    finals: Mapping[str, Evaluator]
    rankings: Sequence[Ranking]
    forwards: int
    judging: int
    final_forwards: Mapping[str, int]


def set_up(
    model: nn.Module,
    task: Task,
    images: Partition,
    evaluate: Evaluate | None,
    config: SearchConfig,
    progress: Progress,
    seconds: dict[str, float],
    judge_name: str | None = None,
) -> Bench:
    """Gather the dense network's statistics and rank every group's units.

    Args:
        model: the dense network.
        task: what is searched.
        images: of the search.
        evaluate: the user's own score, if any.
        config: the options.
        progress: told how far it is.
        seconds: by stage; added to.
        judge_name: the judge that a resumed search was begun with; None chooses one.

    Raises:
        RunError: there is no such judge.
        DataError: the images or labels do not fit the network.
        UsageError: the reward needs labels, and there are none.
        ModelError: its output is no class scores, and there is no `evaluate`.
        UsageError: the importance needs labels, and there are none.
    """
    criterion = make_importance(config.importance)
    check_needs(criterion, images.calibration)
    search, selection = (
        ClassificationScorer(model, samples) if evaluate is None else CustomScorer(model, evaluate)
        for samples in (images.search, images.selection)
    )
    check_labels(config.reward, search.dense)
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
    repair = SequentialRepair(model, task.structure, images.calibration, config.seed)
    if len(repair.samples) < len(images.calibration):
        progress.note(
            f"sequential repair uses {len(repair.samples)} of {len(images.calibration)} "
            f"calibration samples: more would not fit in {ACTIVATION_BYTES / 1e9:.1f} GB"
        )
    builder = Builder(
        model,
        task.structure,
        rankings,
        Refitter(model, task.structure, moments),
        images.calibration.first(BATCHNORM_SAMPLES),
        repair,
    )

    def judges(scorer: Scorer, builds: Mapping[str, Build]) -> dict[str, Evaluator]:
        return {
            name: Evaluator(build, scorer, task.costs, task.structure)
            for name, build in builds.items()
        }

    quick = {"one-shot": builder.one_shot, "one-shot+batchnorm": builder.settled}
    if judge_name is not None and judge_name not in quick:
        raise RunError(f"the run was begun with the judge {judge_name!r}, which is not known.")
    able = {name: quick[name] for name in ([judge_name] if judge_name else quick)}
    with timed(seconds, "judge"):
        name, judge = _choose_judge(judges(search, able), task)
    finals = judges(selection, {name: quick[name], "sequential": builder.sequential})
    settling = BATCHNORM_SAMPLES if "batchnorm" in name else 0
    return Bench(
        dense=search.dense,
        builder=builder,
        judge=judge,
        judge_name=name,
        finals=finals,
        rankings=rankings,
        forwards=search.dense.samples + settling,
        judging=len(quick),
        final_forwards={
            name: selection.dense.samples + settling,
            "sequential": selection.dense.samples + len(repair.samples),
        },
    )


def _choose_judge(judges: Mapping[str, Evaluator], task: Task) -> tuple[str, Evaluator]:
    """Return the first judge, unless a later, slower one is clearly kinder to the uniform cut.

    That is half of every group where there is no budget; with one, only proportions matter.
    What BN re-estimation gains over the variances known from the moments differs by network.
    """
    (name, judge), *others = judges.items()
    if not others:
        return name, judge
    uniform = task.projection.project([0.5] * len(task.space))
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
        judged: how every network was repaired that it was compared with, itself included.
    """

    measurement: Measurement
    network: nn.Module
    reconstruction: str
    judged: tuple[str, ...] = ()


def run_off(
    trials: Sequence[Trial],
    bench: Bench,
    reward: Reward,
    progress: Progress,
    deadline: float = math.inf,
) -> Finalist:
    """Return the best of the best trials, judged on images that the search did not see.

    Each is repaired in both ways: sequential reconstruction is better by far with enough
    calibration data, and can be worse with little. One that fails drops out, and none is begun
    after the deadline (`time.monotonic` seconds) once there is a best.

    Raises:
        ModelError: all fail.
    """
    best: Finalist | None = None
    highest, reason = -math.inf, ""
    contests = [(trial, *final) for trial in trials for final in bench.finals.items()]
    judged: list[str] = []
    for trial, reconstruction, evaluator in contests:
        if best is not None and time.monotonic() >= deadline:
            progress.note(f"the time is over: {len(judged)} of {len(contests)} finalists judged")
            break
        judged.append(reconstruction)
        try:
            network, measurement = evaluator.build(trial.candidate.widths)
            value = reward(measurement)
        except Exception as error:  # out of memory, or the user's own code
            kind = "" if isinstance(error, RewardError) else f"{type(error).__name__}: "
            reason = f"{kind}{first_line(error)}"
            progress.note(f"a finalist drops out: {reason}")
            continue
        if value > highest:
            best, highest = Finalist(measurement, network, reconstruction), value
        progress.step("finalists", len(judged), len(contests))
    if best is None:
        raise ModelError(
            f"every finalist failed on the selection images, the last one because {reason}; the "
            "trials are kept: resume the run when the cause is mended."
        )
    return replace(best, judged=tuple(judged))
