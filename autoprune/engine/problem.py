"""What a search decides and within which bounds: all that is known before any image is read."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autoprune.agents.registry import check_strategy, check_unbounded
from autoprune.core.progress import Progress
from autoprune.cost import COSTS, cost_models
from autoprune.cost.budget import Budget
from autoprune.cost.model import CostModel
from autoprune.engine.context import SearchContext
from autoprune.engine.latency_table import check_latency_table, latency_cost, width_multiple
from autoprune.engine.limits import StageLimits
from autoprune.engine.ray_cluster import check_ray
from autoprune.errors import BudgetError, ModelError, UsageError, did_you_mean, listed, spelt
from autoprune.evaluation.reward import BUILT_IN, needs_no_budget
from autoprune.importance import make_importance
from autoprune.options.kinds import AUTO, DEPTH, HEADS
from autoprune.options.origin import Restrictions
from autoprune.options.search import SearchConfig
from autoprune.profiling.subject import Subject
from autoprune.search_spaces.keep_ratio import SearchSpace, match_groups, search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.depth import with_branches
from autoprune.structure.frozen import (
    check_named,
    excluded_tensors,
    freeze_excluded,
    frozen_tensors,
)
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs
from autoprune.structure.verify import analyze
from autoprune.study.run_directory import RunDirectory
from autoprune.training.loggers import find_loggers

log = logging.getLogger(__name__)

# Reasons that a message names.
MOST_NAMED = 4
# Multiples that are tried where the budget is out of reach in the one that the device favours.
SMALLER_MULTIPLES = (8, 4, 1)


def check_config(config: SearchConfig) -> None:
    """Refuse what no network and no image is needed to refuse.

    Raises:
        BudgetError: the budget is malformed, missing, or unreachable in any network.
        UsageError: no such strategy, sampler or importance, or one that needs a budget or a cost.
    """
    limits = Budget.parse(config.budget).limits
    check_strategy(config.strategy, **config.strategy_options)
    make_importance(config.importance)
    StageLimits.from_mapping(config.engine)
    check_latency_table(config)
    if config.from_training is not None:
        trained = RunDirectory(config.from_training)
        trained.method.load_scores()
        trained.load_policy()
    check_ray(config.ray, config.gpus_per_worker)
    find_loggers(config.logger)
    if config.minimize is not None and config.minimize not in COSTS:
        hint = did_you_mean(config.minimize, COSTS)
        raise UsageError(f"unknown cost {config.minimize!r} to minimize; {hint}")
    if not limits and config.max_drop is None:
        if config.reward in BUILT_IN and not needs_no_budget(config.reward):
            raise BudgetError(
                f"the reward {config.reward!r} needs a budget, e.g. flops=0.5: without one it "
                "leaves the network whole; accuracy_flops needs none."
            )
        check_unbounded(config.strategy, **config.strategy_options)


def check_patterns(model: nn.Module, config: SearchConfig) -> None:
    """Refuse patterns that name nothing in the network; no image is needed to.

    Raises:
        UsageError: one does.
    """
    for option in ("exclude", "exclude_outputs", "min_keep"):
        check_named(model, getattr(config, option), option)


@dataclass(frozen=True, eq=False)
class PruningProblem:
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


def make_problem(context: SearchContext) -> PruningProblem:
    """Trace the network and check that the budget can be met.

    Raises:
        ModelError: the network fails, or nothing in it can be pruned.
        BudgetError: the budget is malformed, unknown or out of reach.
        UsageError: a pattern matches nothing.
        TableError: the latency table is not for this network.
        MeasuringError: the device fails, or the time does not suffice to measure it.
    """
    model, config = context.model, context.config
    structure = prunable_structure(
        model, context.inputs, config, context.progress, train_frozen=config.train_frozen
    )
    if not structure.groups:
        hint = "; exclude fewer layers" if config.exclude or config.exclude_outputs else ""
        raise ModelError(
            f"nothing in this network can be pruned: {_why_nothing(model, structure)}{hint}."
        )
    if not config.train_frozen:
        _tell_frozen(model)
    costs = _costs(context, structure)
    projection = _onto_budget(structure, costs, config)
    return PruningProblem(structure, costs, projection.space, projection)


def under_budget(problem: PruningProblem, config: SearchConfig) -> PruningProblem:
    """Return the problem under the budget of another search of the same network.

    Raises:
        BudgetError: the budget is malformed, unknown or out of reach.
    """
    projection = _onto_budget(problem.structure, problem.costs, config)
    return replace(problem, space=projection.space, projection=projection)


def _onto_budget(
    structure: Structure, costs: Mapping[str, CostModel], config: SearchConfig
) -> Projection:
    dense = {name: cost.total(structure.dense_widths) for name, cost in costs.items()}
    limits = Budget.parse(config.budget).resolve(dense)
    constraints = [Constraint(costs[name], limit) for name, limit in limits.items()]
    for text in _loose_bounds(constraints, dense):
        log.info("%s", text)
    return _reachable(structure, config, width_multiple(config, costs), constraints)


def _costs(context: SearchContext, structure: Structure) -> Mapping[str, CostModel]:
    """Return the cost models by name."""
    subject = Subject(context.model, structure, context.inputs)
    latency = latency_cost(
        subject,
        context.config,
        context.run.latency_path,
        context.progress,
        context.clock.search_deadline,
    )
    costs = cost_models(structure)
    if latency is not None:
        costs[latency.name] = latency
    return costs


def _loose_bounds(constraints: Sequence[Constraint], dense: Mapping[str, float]) -> Iterator[str]:
    """Yield what to say of bounds that the dense network meets, which ask for nothing."""
    for name, limit, unit in ((one.cost.name, one.limit, one.cost.unit) for one in constraints):
        if dense[name] <= limit:
            yield (
                f"the budget {name}={limit:.6g} {unit} bounds nothing: the dense network has "
                f"{dense[name]:.6g} {unit}"
            )


def _reachable(
    structure: Structure,
    config: SearchConfig,
    multiple: int,
    constraints: Sequence[Constraint],
) -> Projection:
    """Return the projection onto the budget, in a smaller multiple if only that one can meet it.

    Raises:
        BudgetError: none can.
    """

    def projection(step: int) -> Projection:
        return Projection(search_space(structure, config.min_keep or None, step), constraints)

    smaller = [one for one in SMALLER_MULTIPLES if config.round_to == AUTO and one < multiple]
    for one, following in itertools.pairwise((multiple, *smaller)):
        try:
            return projection(one)
        except BudgetError:
            log.info("the budget is out of reach in multiples of %d: %d is tried", one, following)
    return projection((multiple, *smaller)[-1])


def prunable_structure(
    model: nn.Module,
    example_inputs: Inputs,
    restrictions: Restrictions,
    progress: Progress,
    *,
    train_frozen: bool = False,
) -> Structure:
    """Trace and verify the network, and leave alone what the user fixed.

    Layers that run in training mode only, and operators with weights whose MACs nobody knows, are
    named.

    Args:
        model: the dense network.
        example_inputs: a batch.
        restrictions: what stays as it is, and what is decided.
        progress: told how far it is.
        train_frozen: whether frozen weights may change all the same.

    Raises:
        ModelError: the network fails.
        UsageError: a pattern matches nothing.
    """
    excluded = excluded_tensors(model, restrictions.exclude)
    structure = analyze(model, example_inputs, lambda d, t: progress.step("structure", d, t))
    for note in structure.training.notes():
        log.info("%s", note)
    for operator in structure.uncounted:
        log.info("MACs of %s are not counted", operator)
    outputs = match_groups(structure, restrictions.exclude_outputs, "exclude_outputs")
    structure = freeze_excluded(structure, excluded)
    structure = structure.frozen_by(dict.fromkeys(outputs, "its outputs are excluded"))
    if HEADS not in restrictions.decide:
        undecided = f"attention is not cut without {spelt('decide', 'channels,heads')}"
        structure = structure.frozen_by(
            {group.name: undecided for group in structure.groups if group.way}
        )
    if DEPTH in restrictions.decide:
        structure = with_branches(model, example_inputs, structure, excluded)
    frozen = frozenset() if train_frozen else frozen_tensors(model)
    return structure.leaving(excluded | frozen)


def _why_nothing(model: nn.Module, structure: Structure) -> str:
    """Return the reasons why nothing can be pruned, the most frequent first."""
    reasons = Counter(frozen.reason for frozen in structure.frozen).most_common()
    if reasons:
        named = [reason for reason, _ in reasons[:MOST_NAMED]]
        more = len(reasons) - len(named)
        return "; ".join([*named, *[f"and {more} more reasons (autoprune inspect)"] * (more > 0)])
    quantized = [name for name, m in model.named_modules() if "quantized" in type(m).__module__]
    if quantized:
        return f"{quantized[0]} and others are quantized (prune first, then quantize)"
    return "it has no convolution or linear layer with a weight of its own"


def _tell_frozen(model: nn.Module) -> None:
    """Say which weights are neither refitted nor trained since the user froze them."""
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    if not frozen:
        return
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in frozen))
    log.info(
        "%s of %s parameters are frozen (requires_grad=False) and keep their values, neither "
        "refitted nor trained: %s; %s lets them change",
        f"{sum(frozen.values()):,}",
        f"{sum(p.numel() for p in model.parameters()):,}",
        listed(modules),
        spelt("train_frozen", True),
    )
