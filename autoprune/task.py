"""What a search decides and within which bounds: all that is known before any image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autoprune.agents import check_strategy, check_unbounded
from autoprune.budget import COSTS, Budget
from autoprune.config import SearchConfig
from autoprune.cost import cost_models
from autoprune.cost.model import CostModel
from autoprune.errors import BudgetError, ModelError, UsageError, did_you_mean
from autoprune.evaluation.reward import BUILT_IN, needs_no_budget
from autoprune.importance import make_importance
from autoprune.latency import check_backend, latency_cost, step_of_widths
from autoprune.progress import Progress
from autoprune.search_spaces.keep_ratio import SearchSpace, match_groups, search_space
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.structure.groups import Structure
from autoprune.structure.inputs import Inputs
from autoprune.structure.verify import analyze


def check_config(config: SearchConfig) -> None:
    """Refuse what no network and no image is needed to refuse.

    Raises:
        BudgetError: the budget is malformed, missing, or unreachable in any network.
        UsageError: no such strategy, sampler or importance, or one that needs a budget or a cost.
    """
    limits = Budget.parse(config.budget).limits
    check_strategy(config.strategy, **config.strategy_options)
    make_importance(config.importance)
    check_backend(config)
    if config.minimize is not None and config.minimize not in COSTS:
        hint = did_you_mean(config.minimize, COSTS)
        raise UsageError(f"unknown cost {config.minimize!r} to minimize; {hint}")
    if not limits and config.max_drop is None:
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
    model: nn.Module,
    example_inputs: Inputs,
    config: SearchConfig,
    table_path: Path,
    progress: Progress,
) -> Task:
    """Trace the network and check that the budget can be met.

    Args:
        model: the dense network.
        example_inputs: a batch.
        config: the options.
        table_path: where the latency table is kept if this host has to be measured.
        progress: told how far it is.

    Raises:
        ModelError: the network fails, or nothing in it can be pruned.
        BudgetError: the budget is malformed, unknown or out of reach.
        UsageError: a pattern matches nothing.
        TableError: the latency table is not for this network.
    """
    budget = Budget.parse(config.budget)
    structure = prunable_structure(model, example_inputs, config.exclude, progress)
    if not structure.groups:
        reasons = sorted({frozen.reason for frozen in structure.frozen})
        raise ModelError(
            f"nothing in this network can be pruned: {'; '.join(reasons) or 'it has no layers'}."
        )
    costs = cost_models(structure)
    latency = latency_cost(model, structure, example_inputs, config, table_path, progress)
    if latency is not None:
        costs[latency.name] = latency
    step = step_of_widths(config, latency, progress)
    space = search_space(structure, config.min_keep or None, step)
    dense = {name: cost.total(structure.dense_widths) for name, cost in costs.items()}
    limits = budget.resolve(dense)
    constraints = [Constraint(costs[name], limit) for name, limit in limits.items()]
    projection = Projection(space, constraints)
    return Task(structure, costs, projection.space, projection)


def prunable_structure(
    model: nn.Module, example_inputs: Inputs, exclude: Sequence[str], progress: Progress
) -> Structure:
    """Trace and verify the network; what matches a pattern to exclude is frozen.

    Operators with weights whose MACs nobody knows are named.
    """
    structure = analyze(model, example_inputs, lambda d, t: progress.step("structure", d, t))
    for note in structure.training.notes():
        progress.note(note)
    for operator in structure.uncounted:
        progress.note(f"MACs of {operator} are not counted")
    excluded = match_groups(structure, exclude, "exclude")
    return structure.frozen_by(dict.fromkeys(excluded, "excluded by the user"))
