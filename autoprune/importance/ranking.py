"""Ranking of all groups of a network by one criterion."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from autoprune.core.threads import shared_threads
from autoprune.data import Samples
from autoprune.errors import AutopruneError, UsageError, counted, user_code
from autoprune.importance.base import Evidence, Importance, Ranking
from autoprune.importance.consumer_inputs import error_curve
from autoprune.importance.obs import ObsImportance
from autoprune.structure.groups import ChannelGroup

LABELLED = ("labels", "gradients")
# Groups that are ranked at the same time; each holds matrices of its consumers' inputs.
MOST_AT_ONCE = 4


def check_needs(criterion: Importance, samples: Samples) -> None:
    """Check that there are labels if the criterion needs them.

    Raises:
        UsageError: there are no labels.
    """
    if criterion.needs in LABELLED and not samples.labelled:
        raise UsageError(
            f"the importance {criterion.name!r} needs labels, but the training data has no class "
            "labels; choose one without, such as 'obs'."
        )


def rank_groups(
    criterion: Importance,
    evidence: Evidence,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Ranking]:
    """Return the rankings of all groups, each with an error curve.

    Where the criterion estimates no errors, they are those of the refitted consumers if units are
    removed in its order.

    Args:
        criterion: the criterion.
        evidence: the dense network and its statistics.
        progress: called with the number of ranked groups and their total.

    Raises:
        UsageError: labels are missing, or a custom criterion fails or returns no permutation.
    """
    check_needs(criterion, evidence.samples)
    groups, rankings = evidence.structure.groups, []
    rank = partial(_with_errors, criterion, evidence)
    with _pool(evidence) as pool:
        for ranking in (pool.map if criterion.in_threads else map)(rank, groups):
            rankings.append(ranking)
            progress(len(rankings), len(groups))
    return rankings


def _pool(evidence: Evidence) -> AbstractContextManager[ThreadPoolExecutor]:
    """Return a pool for groups that are ranked at the same time.

    Each is ranked by one of PyTorch's threads, so that rounding errors do not depend on how many
    there are.
    """
    on_cpu = evidence.samples.device.type == "cpu"
    return shared_threads(min(MOST_AT_ONCE, torch.get_num_threads()) if on_cpu else 1, each=1)


def _with_errors(criterion: Importance, evidence: Evidence, group: ChannelGroup) -> Ranking:
    # Products of activations show a criterion on the inputs of layers nothing.
    is_read = group.consumers or criterion.needs == "nothing"
    ranking = _rank(criterion if is_read else ObsImportance(), group, evidence)
    if ranking.errors is None:
        ranking = replace(ranking, errors=error_curve(group, evidence, ranking.order))
    return ranking


def _rank(criterion: Importance, group: ChannelGroup, evidence: Evidence) -> Ranking:
    def failed(reason: str) -> UsageError:
        return UsageError(
            f"the importance {criterion.name!r} fails on group {group.name!r}: {reason}"
        )

    with user_code(failed, passes=(AutopruneError,)):
        ranking = criterion.rank(group, evidence)
    _check(ranking, criterion, group)
    return ranking


def _check(ranking: Any, criterion: Importance, group: ChannelGroup) -> None:
    """Check that a criterion, which may be a custom one, has returned a ranking of the group."""
    if not isinstance(ranking, Ranking) or sorted(ranking.order) != list(range(group.size)):
        wrong = f"no order of the {counted(group.size, 'unit')}"
    elif ranking.errors is not None and not _finite(ranking.errors, group.size + 1):
        wrong = f"no {group.size + 1} finite errors"
    elif ranking.scores is not None and not _finite(ranking.scores, group.size):
        wrong = f"no {group.size} finite scores"
    else:
        return
    raise UsageError(f"the importance {criterion.name!r} gives {wrong} of group {group.name!r}.")


def _finite(values: tuple[float, ...], count: int) -> bool:
    return len(values) == count and all(map(math.isfinite, values))
