"""The layer-by-layer episode: its feasible range, its observations, and the Gymnasium shell."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as sb3_check

from autoprune.core.policy import Widths
from autoprune.cost.model import CostModel
from autoprune.errors import BudgetError
from autoprune.importance import Ranking
from autoprune.search_spaces.env import PruningEnv
from autoprune.search_spaces.episode import FEATURES, Episode
from autoprune.search_spaces.group_features import GroupFeatures
from autoprune.search_spaces.keep_ratio import SearchSpace
from autoprune.search_spaces.projection import Constraint, Projection


class ChainCost(CostModel):
    name, unit = "flops", "MACs"

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        lengths = [3, *widths, 10]
        return {str(i): float(a * b) for i, (a, b) in enumerate(itertools.pairwise(lengths))}


class StairCost(CostModel):
    """As latency is measured: an odd width is slower than the next even one."""

    name, unit, is_monotone = "latency", "ms", False

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return {str(i): w + 3.0 * (w % 2) for i, w in enumerate(widths)}


def episode(
    sizes: Widths,
    keep: float,
    cost: CostModel | None = None,
    step: int = 1,
    features: GroupFeatures | None = None,
) -> tuple[Episode, Projection, SearchSpace]:
    names = tuple(f"g{i}" for i in range(len(sizes)))
    space = SearchSpace(names, sizes, tuple(min(step, s) for s in sizes), step)
    cost = cost or ChainCost()
    projection = Projection(space, [Constraint(cost, keep * cost.total(sizes))])
    space = projection.space  # the narrowest widths are those that were found to fit
    rankings = [
        Ranking(tuple(range(s)), tuple((1 - w / s) ** 2 for w in range(s + 1))) for s in sizes
    ]
    described = [features or GroupFeatures()] * len(sizes)
    return Episode(space, projection, [cost], described, rankings), projection, space


cases = st.tuples(
    st.lists(st.integers(2, 12), min_size=1, max_size=5).map(tuple),
    st.floats(0.35, 1.0),
    st.sampled_from([ChainCost(), StairCost()]),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)


def tried(decided: Widths, projection: Projection, space: SearchSpace) -> list[int]:
    """Return the feasible range as trying every width finds it."""
    group = len(decided)
    narrow, whole = space.lowest[group + 1 :], space.sizes[group + 1 :]
    levels = [int(width) for width in space.levels[group]]
    able = [w for w in levels if projection.fits((*decided, w, *narrow))]
    spare = [w for w in levels if projection.fits((*decided, w, *whole))]
    return [w for w in able if w >= max(spare, default=0)] or able[-1:]


@given(cases)
def test_any_actions_within_the_feasible_range_end_within_the_budget(case: tuple) -> None:  # type: ignore[type-arg]
    sizes, keep, cost, step, random = case
    try:
        rules, projection, space = episode(sizes, keep, cost, step)
    except BudgetError:
        return
    decided: Widths = ()
    while len(decided) < len(sizes):
        allowed = rules.allowed(decided)
        assert allowed.tolist() == tried(decided, projection, space)
        decided = rules.execute(decided, random.random())
        assert decided[-1] in allowed and decided[-1] in space.levels[len(decided) - 1]
    assert projection.fits(decided)
    widths = rules.finish(decided)
    assert projection.fits(widths) and space.contains(widths)


def test_the_feasible_range_counts_rounding_and_what_is_still_to_come() -> None:
    # Cost a + b with the second group at its lowest, 4 of 8: a may keep 8 of 12 - 4.
    class Sum(CostModel):
        name, unit = "flops", "MACs"

        def by_layer(self, widths: Widths) -> Mapping[str, float]:
            return dict(enumerate(map(float, widths)))  # type: ignore[arg-type]

    rules, _, _ = episode((12, 8), 12.9 / 20, Sum(), step=4)
    assert rules.allowed(()).tolist() == [4, 8]
    assert rules.execute((), 1.0) == (8,)
    # With 8 units the second group must stay at 4; with 4 it may have 8, and then must.
    assert rules.allowed((8,)).tolist() == [4]
    assert rules.allowed((4,)).tolist() == [8]


def test_the_feasible_range_tries_every_width_of_a_cost_that_is_not_monotone() -> None:
    rules, _, _ = episode((6,), 5.0 / 6.0, StairCost())
    # 5 costs 8 and 3 costs 6: of the widths with at most 5 ms only 4 is worth it.
    assert rules.allowed(()).tolist() == [4]


def test_an_observation_describes_the_group_that_is_decided_next() -> None:
    rules, _, _ = episode((16, 64, 4), 0.5)
    depth, size = FEATURES.index("depth"), FEATURES.index("size")
    widths: Widths = (8, 40, 2)
    seen = [rules.observe(widths[:t]) for t in range(3)]
    assert [row[depth] for row in seen] == [0.0, 0.5, 1.0]
    assert np.allclose([row[size] for row in seen], [4 / 12, 6 / 12, 2 / 12])
    last = FEATURES.index("last")
    assert np.allclose([row[last] for row in seen], [1.0, 8 / 16, 40 / 64])


def test_costs_in_the_observation_are_shares_of_the_dense_network() -> None:
    rules, _, _ = episode((4, 4), 0.5)
    dense = 3 * 4 + 4 * 4 + 4 * 10
    seen = dict(zip(FEATURES, rules.observe((2,)), strict=True))
    now = 3 * 2 + 2 * 4 + 4 * 10
    least = 3 * 2 + 2 * 1 + 1 * 10
    assert seen["reduced"] == pytest.approx(1 - now / dense)
    assert seen["rest"] == pytest.approx((now - least) / dense)
    assert seen["needed"] == pytest.approx((now - dense / 2) / (now - least))
    # The last group's part of any plan: 2·3 + 2·2 + 2·10 = 30 fits into 34, three units
    # (6 + 6 + 30 = 42) do not.
    assert seen["planned"] == pytest.approx(0.75, abs=1e-3)
    assert seen["error50"] == pytest.approx(1 + np.log10(0.25) / 4)


def test_observations_do_not_depend_on_scale() -> None:
    """Twice the channels in every layer are the same network, but for `size` and rounding."""
    one, _, _ = episode((20, 40, 20), 0.5)
    two, _, _ = episode((40, 80, 40), 0.5)
    a, b = one.observe((10, 30)), two.observe((20, 60))
    other = [i for i, name in enumerate(FEATURES) if name not in ("size",)]
    assert np.allclose(a[other], b[other], atol=0.08)


@given(cases)
def test_observations_stay_in_their_range(case: tuple) -> None:  # type: ignore[type-arg]
    sizes, keep, cost, step, random = case
    features = GroupFeatures(3, 4, 49, 4, True, True, 0.25)
    try:
        rules, projection, _ = episode(sizes, keep, cost, step, features)
    except BudgetError:
        return
    widths = projection.project([random.random() + 0.01 for _ in sizes])
    for step_taken, width, size in zip(rules.walk(widths), widths, sizes, strict=True):
        assert step_taken.observation.shape == (len(FEATURES),)
        assert (step_taken.observation >= 0).all() and (step_taken.observation <= 1).all()
        assert step_taken.ratio == width / size


def env() -> PruningEnv:
    rules, _, _ = episode((8, 6, 7), 0.6)
    return PruningEnv(rules, lambda widths: -float(sum(widths)))


def test_the_environment_passes_both_checkers() -> None:
    gymnasium_check(env(), skip_render_check=True)
    sb3_check(env())


def test_only_the_last_step_is_rewarded_and_tells_the_executed_ratio() -> None:
    shell = env()
    shell.reset(seed=0)
    rewards, ratios = [], []
    ended = False
    while not ended:
        _, reward, ended, truncated, info = shell.step(np.array([0.9], np.float32))
        rewards.append(reward)
        ratios.append(info["ratio"])
        assert not truncated
    assert rewards[:-1] == [0.0, 0.0]
    assert rewards[-1] == -sum(info["widths"])
    assert max(ratios) < 0.9 or min(ratios) < 0.9  # the feasible range clipped at least one
    assert all(ratio in {w / s for s in (8, 6, 7) for w in range(1, s + 1)} for ratio in ratios)


@pytest.mark.slow
def test_any_algorithm_learns_from_it() -> None:
    model = SAC("MlpPolicy", env(), learning_starts=10, device="cpu", seed=0)
    model.learn(40)
