from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from autoprune.agents.registry import make_strategy
from autoprune.agents.uniform import DeepStrategy


def test_uniform_keeps_one_ratio_everywhere(make_toy: Any) -> None:
    toy = make_toy([40, 80, 120], keep=0.25)
    candidate = make_strategy("uniform", toy.problem).ask()
    assert candidate is not None
    ratios = toy.problem.space.ratios(candidate.widths)
    assert max(ratios) - min(ratios) < 1.5 / 40
    assert math.isclose(ratios.mean(), 0.5, abs_tol=0.05)


STEEPEST = DeepStrategy.config.last


@pytest.mark.parametrize(("name", "ends"), [("deep", (1, STEEPEST)), ("shallow", (STEEPEST, 1))])
def test_ramps_run_linearly_over_depth(name: str, ends: tuple[float, float], make_toy: Any) -> None:
    """Six wide groups within half the cost: proportions survive the scaling onto the budget."""
    toy = make_toy([400] * 6, keep=0.3)
    candidate = make_strategy(name, toy.problem).ask()
    assert candidate is not None
    ratios = toy.problem.space.ratios(candidate.widths)
    assert np.allclose(ratios / ratios.max(), np.linspace(*ends, 6), atol=0.01)
