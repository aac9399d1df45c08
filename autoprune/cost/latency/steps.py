"""Which channel multiples a device favours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.cost.latency.curves import Curve, LayerLatency

STEPS = (1, 2, 4, 8, 16, 32, 64)
# Rounding every width up to the multiple may cost that share of the latency, on average.
FREE = 0.02


def favoured_step(layers: Sequence[LayerLatency]) -> int:
    """Return the largest multiple to which widths can be rounded up for next to nothing.

    On a staircase the channels up to the edge are free; on a slope none are. Layers count by their
    dense latency.
    """
    curves = [
        (curve, layer.dense_ms)
        for layer in layers
        for curve in (layer.inputs, layer.outputs)
        if len(curve.lengths) > 1
    ]
    if not curves:
        return 1
    weights = [weight for _, weight in curves]
    costs = {
        step: np.average([_rounding_up(curve, step) for curve, _ in curves], weights=weights)
        for step in STEPS
    }
    return max(step for step, cost in costs.items() if cost <= FREE)


def _rounding_up(curve: Curve, step: int) -> float:
    """Return the mean share by which latency rises if every width is rounded up."""
    ms = curve.at_all()[1:]
    widths = np.arange(1, len(ms) + 1)
    rounded = np.minimum(-(-widths // step) * step, len(ms))
    return float(np.mean(ms[rounded - 1] / ms - 1))
