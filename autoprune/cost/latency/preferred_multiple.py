"""Which channel multiples a device favours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.cost.latency.curves import LayerLatency

STEPS = (1, 2, 4, 8, 16, 32, 64)
# Larger multiples may cost that share of the latency more than the best ones, on average.
FREE = 0.02


def favoured_step(layers: Sequence[LayerLatency]) -> int:
    """Return the largest multiple to which widths can be rounded up for next to nothing.

    On a staircase the channels up to the edge are free; on a slope none are; where odd widths are
    slow, rounding up makes a layer quicker. Layers count by their dense latency.
    """
    curves = [
        (ms, layer.dense_ms)
        for layer in layers
        for ms in (layer.over_inputs(), layer.over_outputs())
        if len(ms) > 1
    ]
    if not curves:
        return 1
    weights = [weight for _, weight in curves]
    costs = {
        step: np.average([_rounding_up(ms, step) for ms, _ in curves], weights=weights)
        for step in STEPS
    }
    least = min(costs.values())
    return max(step for step, cost in costs.items() if cost <= least + FREE)


def _rounding_up(ms: Floats, step: int) -> float:
    """Return the mean share by which latency rises if every width is rounded up."""
    widths = np.arange(1, len(ms) + 1)
    rounded = np.minimum(-(-widths // step) * step, len(ms))
    return float(np.mean(ms[rounded - 1] / ms - 1))
