"""Expected loss at the network's output with every group cut to every width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from autoprune.importance.base import Evidence, Ranking
from autoprune.reconstruction.refit import Refitter
from autoprune.statistics.curvature import Change, output_changes
from autoprune.statistics.moments import LARGEST_PATCH
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import kept_positions

SAMPLES = 250
# Number of widths of a group to evaluate; losses are interpolated between them. It is reduced where
# all changed weights together exceed `CHANGE_BYTES`, or solving for them exceeds `SOLVING` MACs.
LEVELS, FEWEST = 16, 4
CHANGE_BYTES = 1_000_000_000
SOLVING = 1e12
# The smallest loss of any cut, as a fraction of the largest loss.
LEAST = 1e-9


def with_losses(
    rankings: Sequence[Ranking], refitter: Refitter, evidence: Evidence, temperature: float
) -> list[Ranking]:
    """Return the rankings with the losses to expect if one group is cut and its consumers refitted.

    Unlike reconstruction errors these are comparable across groups, since they are measured at the
    network's output (`output_changes`). Groups without any measured effect on the output get losses
    in proportion to their errors.

    Args:
        rankings: rankings of all groups, with errors.
        refitter: refitter of their consumers.
        evidence: the dense network and its calibration data.
        temperature: temperature of the softened predictions.

    Raises:
        ModelError: the network cannot be differentiated.
    """
    structure = evidence.structure
    can_go, most = {branch.group for branch in structure.branches}, _affordable(structure)
    levels = [_levels(one.size, most, one.name in can_go) for one in structure.groups]
    changes = {
        structure.groups[i].name: own
        for i in range(len(rankings))
        if (own := _changes(evidence, i, rankings[i], levels[i], refitter))
    }
    effects = output_changes(
        evidence.model,
        structure,
        changes,
        evidence.samples.first(SAMPLES),
        temperature,
        evidence.seed,
    )
    curves = [
        _curve(own, effects[group.name].cpu().numpy(), group.size)
        if group.name in effects and _is_known(effects[group.name])
        else None
        for own, group in zip(levels, structure.groups, strict=True)
    ]
    return _completed(rankings, curves)


def _is_known(effects: Float64[Tensor, " changes"]) -> bool:
    return bool(effects.isfinite().all() & effects.any())


def _affordable(structure: Structure) -> int:
    """Return the number of widths per group that memory and computation allow."""
    memory, work = 0.0, 0.0
    for weight, groups in structure.feeds.items():
        layer, numbers = structure.layer_of_weight[weight], math.prod(structure.shapes[weight])
        rows = structure.shapes[weight][layer.out_dim]
        inputs = structure.shapes[weight][0] if layer.is_transposed else numbers // rows
        memory += 4 * numbers * len(groups)
        work += inputs**3 / 3 * len(groups) if inputs <= LARGEST_PATCH else 0
    most = min(CHANGE_BYTES / max(memory, 1), SOLVING / max(work, 1.0))
    return int(np.clip(most, FEWEST, LEVELS))


def _levels(size: int, count: int, to_zero: bool) -> Int[np.ndarray, " levels"]:
    """Return at most `count` widths between 0 and the full size, in rising order, and maybe 0."""
    inner = np.linspace(0, size, count + 2)[1:-1].round().astype(int)
    return np.unique([*([0] if to_zero else []), *inner[(inner > 0) & (inner < size)]])


def _changes(
    evidence: Evidence,
    group: int,
    ranking: Ranking,
    levels: Int[np.ndarray, " levels"],
    refitter: Refitter,
) -> dict[str, Change]:
    """Return the changes of a group's consumers at every level, by weight name."""
    # Only the consumers change, also where their branch would go as a whole.
    structure = replace(evidence.structure, branches=())
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    everything = [tuple(range(size)) for size in structure.dense_widths]
    for level in levels:
        kept = [*everything[:group], ranking.kept(int(level)), *everything[group + 1 :]]
        keep = kept_positions(evidence.model, structure.policy(kept))
        for consumer in structure.groups[group].consumers:
            layer = structure.layer_of_weight.get(consumer.tensor)
            if layer is not None and consumer.dim == layer.in_dim:
                change = refitter.change(layer.weight, keep[layer.weight][layer.in_dim])
                found.setdefault(layer.weight, []).append(change)
    return {
        weight: Change(
            torch.stack([change.flatten() for change, _ in own]).float(),
            torch.stack([shift for _, shift in own]).float(),
        )
        for weight, own in found.items()
    }


def _curve(
    levels: Int[np.ndarray, " levels"], losses: Float64[np.ndarray, " levels"], size: int
) -> Float64[np.ndarray, " {size}+1"]:
    """Return losses at all widths: interpolated, and monotonically falling with the width."""
    known = np.maximum.accumulate(losses[::-1])[::-1]
    known = np.maximum(known, LEAST * known[0])
    widths = np.arange(size + 1)
    curve: Float64[np.ndarray, " widths"] = np.exp(np.interp(widths, levels, np.log(known)))
    above, below = widths > levels[-1], widths < levels[0]
    curve[above] = known[-1] * (size - widths[above]) / (size - levels[-1])
    curve[below] = known[0] * (size - widths[below]) / (size - levels[0])
    return curve


def _completed(
    rankings: Sequence[Ranking], curves: Sequence[Float64[np.ndarray, " _widths"] | None]
) -> list[Ranking]:
    """Return the rankings with losses, estimated from errors where there is no curve.

    Without any curve they are returned unchanged.
    """
    errors = [np.array(ranking.errors) for ranking in rankings]
    known = [
        float(curve.sum() / own.sum())
        for own, curve in zip(errors, curves, strict=True)
        if curve is not None and own.sum() > 0
    ]
    if not known:
        return list(rankings)
    usual = float(np.median(known))
    every = [
        usual * own if curve is None else curve for own, curve in zip(errors, curves, strict=True)
    ]
    return [replace(r, losses=tuple(own.tolist())) for r, own in zip(rankings, every, strict=True)]
