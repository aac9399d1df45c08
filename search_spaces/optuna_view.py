"""The search space as Optuna sees it: one float keep ratio per group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, FloatDistribution

from autoprune.policy import Widths
from autoprune.search_spaces.keep_ratio import SearchSpace


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the range of every group's keep ratio."""
    lows = space.ratios(space.lowest)
    return {
        name: FloatDistribution(low, 1.0)
        for name, low in zip(space.names, lows.tolist(), strict=True)
    }


def parameters(space: SearchSpace, widths: Widths) -> dict[str, float]:
    """Return the keep ratios of widths, by group name."""
    return dict(zip(space.names, space.ratios(widths).tolist(), strict=True))


def ratios(space: SearchSpace, params: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Inverse of `parameters`, before rounding."""
    return np.array([float(params[name]) for name in space.names])
