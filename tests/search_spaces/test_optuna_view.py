from __future__ import annotations

import numpy as np
from optuna.distributions import FloatDistribution

from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.optuna_view import distributions, parameters, ratios

SPACE = SearchSpace(("a", "b"), (8, 5), (2, 5))


def test_every_group_is_a_keep_ratio_from_its_lowest_on() -> None:
    assert distributions(SPACE) == {"a": FloatDistribution(0.25, 1), "b": FloatDistribution(1, 1)}


def test_parameters_come_back_as_the_same_widths() -> None:
    for width in range(2, 9):
        back = ratios(SPACE, parameters(SPACE, (width, 5)))
        assert SPACE.round_down(back * np.array(SPACE.sizes)) == (width, 5)
