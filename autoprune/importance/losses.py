"""What the network's output is expected to lose with every group cut to every width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from autoprune.core.arrays import Floats
from autoprune.data import Samples
from autoprune.importance.base import Ranking
from autoprune.reconstruction.refit import Refitter
from autoprune.statistics.curvature import Change, output_changes
from autoprune.statistics.moments import LARGEST_PATCH
from autoprune.structure.groups import Structure
from autoprune.structure.surgery import kept_positions

SAMPLES = 250
# Widths of a group that are looked at; between them its losses are interpolated. Fewer where all
# changed weights together, or what solving for them takes, would be too much.
LEVELS, FEWEST = 16, 4
CHANGE_BYTES = 1_000_000_000
SOLVING = 1e12
# Of the largest loss, what every cut is taken to lose.
LEAST = 1e-9


def with_losses(
    model: nn.Module,
    structure: Structure,
    rankings: Sequence[Ranking],
    refitter: Refitter,
    samples: Samples,
    temperature: float,
    seed: int,
) -> list[Ranking]:
    """Return the rankings with the losses to expect if one group is cut and its consumers refitted.

    Unlike reconstruction errors these are comparable across groups, for they are seen at the
    network's output (`output_changes`). Groups of which nothing is seen there are taken to lose as
    much for their errors as others.

    Args:
        model: the dense network in evaluation mode.
        structure: its groups.
        rankings: of these, with errors.
        refitter: of their consumers.
        samples: calibration data.
        temperature: that the network's answers are softened with.
        seed: of what is drawn.

    Raises:
        ModelError: the network has no derivatives.
    """
    levels = [_levels(group.size, _affordable(structure)) for group in structure.groups]
    changes = {
        structure.groups[i].name: own
        for i in range(len(rankings))
        if (own := _changes(model, structure, rankings, i, levels[i], refitter))
    }
    seen = output_changes(model, structure, changes, samples.first(SAMPLES), temperature, seed)
    curves = [
        _curve(own, seen[group.name].cpu().numpy(), group.size)
        if group.name in seen and bool(seen[group.name].isfinite().all() & seen[group.name].any())
        else None
        for own, group in zip(levels, structure.groups, strict=True)
    ]
    return _completed(rankings, curves)


def _affordable(structure: Structure) -> int:
    """Return how many widths of every group can be looked at."""
    memory, work = 0.0, 0.0
    for weight, groups in structure.feeds.items():
        layer, numbers = structure.layer_of_weight[weight], math.prod(structure.shapes[weight])
        rows = structure.shapes[weight][layer.out_dim]
        inputs = structure.shapes[weight][0] if layer.is_transposed else numbers // rows
        memory += 4 * numbers * len(groups)
        work += inputs**3 / 3 * len(groups) if inputs <= LARGEST_PATCH else 0
    most = min(CHANGE_BYTES / max(memory, 1), SOLVING / max(work, 1.0))
    return int(np.clip(most, FEWEST, LEVELS))


def _levels(size: int, count: int) -> npt.NDArray[np.intp]:
    inner = np.linspace(0, size, count + 2)[1:-1].round().astype(int)
    return np.unique(inner[(inner > 0) & (inner < size)])


def _changes(
    model: nn.Module,
    structure: Structure,
    rankings: Sequence[Ranking],
    group: int,
    levels: npt.NDArray[np.intp],
    refitter: Refitter,
) -> dict[str, Change]:
    """Return how the group's consumers change at every level, by weight."""
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    everything = [tuple(range(size)) for size in structure.dense_widths]
    for level in levels:
        kept = [*everything[:group], rankings[group].kept(int(level)), *everything[group + 1 :]]
        keep = kept_positions(model, structure.policy(kept))
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


def _curve(levels: npt.NDArray[np.intp], losses: Floats, size: int) -> Floats:
    """Return losses at all widths: interpolated, and never larger with more units left."""
    known = np.maximum.accumulate(losses[::-1])[::-1]
    known = np.maximum(known, LEAST * known[0])
    widths = np.arange(size + 1)
    curve: Floats = np.exp(np.interp(widths, levels, np.log(known)))
    above, below = widths > levels[-1], widths < levels[0]
    curve[above] = known[-1] * (size - widths[above]) / (size - levels[-1])
    curve[below] = known[0] * (size - widths[below]) / (size - levels[0])
    return curve


def _completed(rankings: Sequence[Ranking], curves: Sequence[Floats | None]) -> list[Ranking]:
    """Return the rankings with their losses; as they are if there is none at all."""
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
