"""The multiple to which a device lets widths be rounded up at almost no cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.cost.latency.curves import LayerLatency

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
# A larger multiple may cost this share of the latency more than the best one, on average.
FREE = 0.02


def preferred_multiple(layers: Sequence[LayerLatency]) -> int:
    """Return the largest multiple to which widths can be rounded up at almost no cost.

    On a staircase the channels up to the next edge are free; on a slope none are; where misaligned
    widths are slow, rounding up makes a layer faster. Layers are weighted by their dense latency.
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
        multiple: np.average([_rounding_up(ms, multiple) for ms, _ in curves], weights=weights)
        for multiple in MULTIPLES
    }
    least = min(costs.values())
    return max(multiple for multiple, cost in costs.items() if cost <= least + FREE)


def _rounding_up(ms: Floats, multiple: int) -> float:
    """Return the mean share by which latency rises if every width is rounded up."""
    widths = np.arange(1, len(ms) + 1)
    rounded = np.minimum(-(-widths // multiple) * multiple, len(ms))
    return float(np.mean(ms[rounded - 1] / ms - 1))
