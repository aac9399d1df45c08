"""From calibration images to what builds a network of any widths: statistics, rankings, repair."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from autoprune.core.allocator import memory_share
from autoprune.engine.context import SearchContext
from autoprune.engine.problem import PruningProblem
from autoprune.errors import ModelError, first_line, listed, spelt
from autoprune.evaluation.evaluator import Builder
from autoprune.evaluation.sample_scores import TEMPERATURE
from autoprune.importance import Evidence, Ranking, make_importance, rank_groups
from autoprune.importance.losses import with_losses
from autoprune.reconstruction.mean_shifts import BranchMeans
from autoprune.reconstruction.refit import Refitter
from autoprune.reconstruction.sequential import SequentialRepair, samples_within
from autoprune.statistics.branch_means import branch_means
from autoprune.statistics.collect import collect_moments
from autoprune.statistics.moments import LARGEST_PATCH, Moments
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import deep_copy

# Calibration samples that BN statistics are re-estimated on.
BATCHNORM_SAMPLES = 500

log = logging.getLogger(__name__)


def make_builder(context: SearchContext, problem: PruningProblem) -> Builder:
    """Gather the dense network's statistics and rank every group's units.

    Raises:
        DataError: the images do not fit the network.
        UsageError: the importance needs labels, and there are none.
    """
    structure, calibration = problem.structure, context.images.calibration
    repair_samples = context.begun.get("repair_samples") or _repair_samples(context, structure)
    with context.clock.stage("statistics"):
        moments = collect_moments(
            context.model,
            structure,
            calibration,
            context.config.seed,
            progress=context.step("statistics"),
        )
    refitter = Refitter(context.model, structure, moments)
    with context.clock.stage("paths"):
        rankings = _rank(context, structure, moments, refitter)
    _tell_sliced(structure, moments)
    repair = SequentialRepair(
        context.model, structure, calibration.first(repair_samples), context.config.seed
    )
    settling = calibration.first(BATCHNORM_SAMPLES)
    means = BranchMeans(context.model, structure, branch_means(context.model, structure, settling))
    return Builder(context.model, structure, rankings, refitter, settling, repair, means)


def _rank(
    context: SearchContext,
    structure: Structure,
    moments: Mapping[str, Moments],
    refitter: Refitter,
) -> list[Ranking]:
    """Return the rankings with the losses to expect; where these fail, errors stand for them."""
    calibration, seed = context.images.calibration, context.config.seed
    criterion = make_importance(context.config.importance)
    # A copy: criteria may be the user's, and do anything to it.
    evidence = Evidence(deep_copy(context.model), structure, moments, calibration, seed)
    rankings = rank_groups(criterion, evidence, context.step("paths"))
    own = Evidence(context.model, structure, moments, calibration, seed)
    try:
        return with_losses(rankings, refitter, own, TEMPERATURE)
    except ModelError as error:
        log.info("%s; reconstruction errors stand for losses", first_line(error))
        return rankings


def _repair_samples(context: SearchContext, structure: Structure) -> int:
    """Return how many calibration samples sequential repair can run on, and tell if not on all."""
    calibration = context.images.calibration
    memory = context.config.repair_memory or memory_share(calibration.device) // context.sharing
    count = min(len(calibration), samples_within(structure, memory))
    if count < len(calibration):
        log.info(
            "sequential repair uses %d of %d calibration samples: more would not fit into "
            "%.1f GB of memory (%s)",
            count,
            len(calibration),
            memory / 1e9,
            spelt("repair_memory"),
        )
    return count


def _tell_sliced(structure: Structure, moments: Mapping[str, Moments]) -> None:
    """Name the layers whose remaining inputs are not fitted by least squares."""
    full = {weight for weight, own in moments.items() if own.is_full} | structure.untouched
    rest = [structure.layer_of_weight[w].name for w in structure.feeds if w not in full]
    if rest:
        log.info(
            "%d of %d layers that read what is cut are sliced, not refitted, in the search: %s "
            "(more than %s inputs, one-sided padding, no place for a bias, or samples that are "
            "not the first dimension)",
            len(rest),
            len(structure.feeds),
            listed(rest),
            f"{LARGEST_PATCH:,}",
        )
