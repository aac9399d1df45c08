from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from autoprune.agents.bayes.embedding import BinView, Embedding
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.study.optuna_view import GroupView

SPACE = SearchSpace(("a", "b"), (8, 5), (2, 5))


def test_every_group_is_a_keep_ratio_from_its_lowest_on() -> None:
    ranges = {"a": FloatDistribution(0.25, 1), "b": FloatDistribution(1, 1)}
    assert GroupView(SPACE).distributions == ranges


def test_parameters_come_back_as_the_same_widths() -> None:
    view = GroupView(SPACE)
    for width in range(2, 9):
        back = view.ratios(view.parameters((width, 5)))
        assert SPACE.round_down(back * np.array(SPACE.sizes)) == (width, 5)


def test_a_bin_is_a_step_of_all_its_groups() -> None:
    space = SearchSpace(("a", "b", "c"), (16, 16, 16), (1, 1, 1))
    embedding = Embedding(space.ratios((8, 4, 8)), [(0, 2), (2, 3)])
    view = BinView(space, embedding, reach=1.0, slack=1.5)
    reach = FloatDistribution(-1.0, 1.0)
    assert view.distributions == {"a …": reach, "c …": reach}
    assert view.parameters((8, 4, 8)) == {"a …": 0.0, "c …": 0.0}
    assert view.parameters((16, 8, 4)) == pytest.approx({"a …": np.log(2), "c …": -np.log(2)})
    assert view.ratios({"a …": np.log(2), "c …": 0.0}) == pytest.approx([1.0, 0.5, 0.5])
    # No group is wider than whole.
    assert view.ratios({"a …": 1.0, "c …": 0.0}) == pytest.approx([1.0, np.e / 4, 0.5])


def test_what_is_far_out_of_reach_is_not_in_view() -> None:
    space = SearchSpace(("a",), (1000,), (1,))
    view = BinView(space, Embedding(np.array([0.1]), [(0, 1)]), reach=1.0, slack=1.5)
    near, far = (round(100 * np.exp(1.5 + change)) for change in (-0.05, 0.05))
    assert view.parameters((near,)) == view.parameters((far,)) == {"a …": 1.0}
    assert view.sees((near,)) and not view.sees((far,))
