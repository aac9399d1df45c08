from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autoprune.core.policy import Widths
from autoprune.cost import cost_models
from autoprune.cost.model import CostModel
from autoprune.errors import BudgetError
from autoprune.search_spaces.keep_ratio import SearchSpace, search_space
from autoprune.search_spaces.projection import Constraint, Projection, cheapened
from autoprune.structure.tracing.trace import trace


class ChainCost(CostModel):
    """Bilinear and rising: every layer costs its input width times its output width."""

    name = "flops"
    unit = "MACs"

    def __init__(self, factors: list[float]) -> None:
        self.factors = factors

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        lengths = [3, *widths, 10]
        pairs = zip(self.factors, lengths[:-1], lengths[1:], strict=True)
        return {str(i): factor * a * b for i, (factor, a, b) in enumerate(pairs)}


@st.composite
def projections(draw: st.DrawFn) -> Projection:
    sizes = tuple(draw(st.lists(st.integers(1, 32), min_size=1, max_size=5)))
    step = draw(st.sampled_from([1, 4, 8]))
    names = tuple(f"layer{i}" for i in range(len(sizes)))
    space = SearchSpace(names, sizes, tuple(min(step, size) for size in sizes), step)
    constraints = []
    for _ in range(draw(st.integers(1, 3))):
        count = len(sizes) + 1
        cost = ChainCost(draw(st.lists(st.floats(0.1, 10), min_size=count, max_size=count)))
        least, dense = cost.total(space.lowest), cost.total(sizes)
        constraints.append(Constraint(cost, least + draw(st.floats(0, 1.2)) * (dense - least)))
    return Projection(space, constraints)


def ratios_of(projection: Projection, data: st.DataObject) -> list[float]:
    count = len(projection.space)
    return data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))


@given(projections(), st.data())
def test_within_every_bound_allowed_and_maximal(
    projection: Projection, data: st.DataObject
) -> None:
    widths = projection.project(ratios_of(projection, data))
    assert projection.space.contains(widths)
    for constraint in projection.constraints:
        assert constraint.cost.total(widths) <= constraint.limit * (1 + 1e-9)
    for group in range(len(projection.space)):
        wider = projection.space.next_up(widths, group)
        assert wider is None or not projection.fits(wider)


class StairCost(ChainCost):
    """Just behind a multiple of four a layer costs more than at the next one."""

    is_monotone = False

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return super().by_layer(tuple(w + 5 * (w % 4 == 1 and w > 1) for w in widths))


@given(projections(), st.data())
def test_a_cost_in_steps_is_kept_within_its_bound_too(
    projection: Projection, data: st.DataObject
) -> None:
    space = projection.space
    costs = [StairCost(c.cost.factors) for c in projection.constraints]  # type: ignore[attr-defined]
    least = [cost.total(space.lowest) for cost in costs]
    bounds = [max(low, c.limit) for low, c in zip(least, projection.constraints, strict=True)]
    stairs = Projection(space, list(map(Constraint, costs, bounds)))
    widths = stairs.project(ratios_of(projection, data))
    assert space.contains(widths) and stairs.fits(widths)
    for group in range(len(space)):
        wider = space.next_up(widths, group)
        assert wider is None or not stairs.fits(wider)


def test_steps_up_are_stepped_over() -> None:
    """17 costs 22, but 20 costs 20 again: a budget of 20 is spent."""
    space = SearchSpace(("a",), (32,), (1,))

    class Cost(StairCost):
        def by_layer(self, widths: Widths) -> Mapping[str, float]:
            return {"a": float(widths[0] + 8 * (widths[0] % 4 != 0))}

    assert Projection(space, [Constraint(Cost([]), 20.0)]).project([1.0]) == (20,)


class ValleyCost(ChainCost):
    """The narrowest layers are slow: 8 channels cost 8, and every one that is missing 4 more."""

    is_monotone = False

    def by_layer(self, widths: Widths) -> Mapping[str, float]:
        return {str(i): float(max(w, 8) + 4 * max(8 - w, 0)) for i, w in enumerate(widths)}


@pytest.mark.parametrize("limit", [17.0, 20.0, 60.0])
def test_a_bound_that_only_wider_networks_meet_is_within_reach(limit: float) -> None:
    space = SearchSpace(("a", "b"), (32, 32), (1, 1))
    projection = Projection(space, [Constraint(ValleyCost([]), limit)])
    for ratios in ([1.0, 1.0], [0.01, 1.0], [1.0, 0.2]):
        widths = projection.project(ratios)
        assert projection.fits(widths) and projection.space.contains(widths)
        assert not any(
            projection.fits(wider)
            for wider in map(projection.space.next_up, [widths] * 2, range(2))
            if wider is not None
        )


def test_the_cheapest_widths_need_not_be_the_narrowest() -> None:
    space = SearchSpace(("a", "b"), (32, 6), (1, 1))
    assert cheapened(space, ValleyCost([]).total) == (8, 6)
    assert cheapened(space, lambda widths: float(sum(widths))) == space.lowest
    assert cheapened(space, lambda widths: 0.0) == space.lowest


def test_a_bound_below_the_cheapest_network_is_out_of_reach() -> None:
    space = SearchSpace(("a", "b"), (32, 32), (1, 1))
    with pytest.raises(BudgetError, match="the smallest network that can be cut has 16 "):
        Projection(space, [Constraint(ValleyCost([]), 15.0)])


@given(projections(), st.data())
def test_deterministic_and_idempotent(projection: Projection, data: st.DataObject) -> None:
    ratios = ratios_of(projection, data)
    widths = projection.project(ratios)
    assert projection.project(ratios) == widths
    assert projection.project(projection.space.ratios(widths)) == widths


@given(projections(), st.data())
def test_only_proportions_matter(projection: Projection, data: st.DataObject) -> None:
    ratios = np.array(ratios_of(projection, data)).clip(1e-3)
    assert projection.project(ratios) == projection.project(ratios / 4)


@given(projections(), st.data())
def test_a_loose_budget_leaves_the_network_whole(
    projection: Projection, data: st.DataObject
) -> None:
    space = projection.space
    loose = [Constraint(c.cost, c.cost.total(space.sizes)) for c in projection.constraints]
    assert Projection(space, loose).project(ratios_of(projection, data)) == space.sizes


@given(projections(), st.data())
def test_without_a_bound_ratios_are_taken_as_they_are(
    projection: Projection, data: st.DataObject
) -> None:
    free = Projection(projection.space, [])
    ratios = ratios_of(projection, data)
    widths = free.project(ratios)
    for levels, width, ratio in zip(free.space.levels, widths, ratios, strict=True):
        wanted = ratio * levels[-1]
        assert width in levels
        assert abs(width - wanted) <= np.abs(levels - wanted).min() + 1e-4
    assert free.project(free.space.ratios(widths)) == widths
    assert free.fits(free.space.sizes) and free.excess(free.space.sizes) == 0


def test_without_a_bound_by_hand() -> None:
    space = SearchSpace(("a", "b", "c"), (64, 30, 4), (8, 8, 4), 8)
    free = Projection(space, [])
    assert free.project([1, 1, 1]) == (64, 30, 4)
    assert free.project([0.0, 0.5, 0.1]) == (8, 16, 4)  # levels of b: 8, 16, 24, 30
    assert free.project([0.2, 0.8, 0.9]) == (16, 24, 4)
    assert free.project([7.0, 0.95, 1.0]) == (64, 30, 4)


@given(projections())
def test_a_bound_at_the_smallest_network_gives_exactly_that(projection: Projection) -> None:
    space = projection.space
    tight = [Constraint(c.cost, c.cost.total(space.lowest)) for c in projection.constraints]
    assert Projection(space, tight).project(np.ones(len(space))) == space.lowest


@given(projections(), st.floats(0.01, 0.99))
def test_unreachable_budgets_name_the_smallest_reachable(
    projection: Projection, share: float
) -> None:
    cost = projection.constraints[-1].cost
    least = cost.total(projection.space.lowest)
    impossible = [*projection.constraints, Constraint(cost, share * least)]
    with pytest.raises(BudgetError, match="out of reach") as caught:
        Projection(projection.space, impossible)
    told = f"has {least:.6g} MACs ({cost.bound(least, cost.total(projection.space.sizes))}, "
    assert f"the smallest network that can be cut {told}" in str(caught.value)


def test_equal_ratios_stay_nearly_equal() -> None:
    space = SearchSpace(("a", "b", "c"), (64, 64, 64), (1, 1, 1))
    cost = ChainCost([1.0] * 4)
    widths = Projection(space, [Constraint(cost, 0.5 * cost.total(space.sizes))]).project([1, 1, 1])
    assert max(widths) - min(widths) <= 2


@given(
    st.lists(st.integers(2, 24), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from([1, 4]),
    st.tuples(*[st.floats(0.3, 1)] * 3),
    st.integers(0, 99),
)
def test_real_networks_under_three_budgets(
    sizes: list[int], residual: bool, step: int, shares: tuple[float, ...], seed: int
) -> None:
    layers = [nn.Linear(a, b) for a, b in zip([5, *sizes], [*sizes, 3], strict=True)]
    if residual:
        layers.insert(1, Residual(sizes[0]))
    structure = trace(nn.Sequential(*layers), torch.randn(1, 5))
    space = search_space(structure, 1e-6, step)
    constraints = [
        Constraint(cost, share * cost.total(space.sizes))
        for cost, share in zip(cost_models(structure).values(), shares, strict=True)
    ]
    try:
        projection = Projection(space, constraints)
    except BudgetError:
        assert not all(constraint.holds(space.lowest) for constraint in constraints)
        return
    widths = projection.project(np.random.default_rng(seed).uniform(size=len(space)))
    assert space.contains(widths)
    assert projection.fits(widths)
    assert not any(
        wider is not None and projection.fits(wider)
        for wider in (space.next_up(widths, group) for group in range(len(space)))
    )


class Residual(nn.Linear):
    def __init__(self, features: int) -> None:
        super().__init__(features, features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input).relu()


def test_uniform_widths_are_alike() -> None:
    """Within a unit of each other under a bound; without one as large as asked for."""
    space = SearchSpace(("a", "b"), (20, 40), (1, 1), 1)
    assert Projection(space, []).uniform(0.5) == (10, 20)
    assert Projection(space, []).uniform() == (20, 40)


@pytest.fixture
def vanishing() -> Projection:
    """Three groups, of which the second may have no units at all."""
    space = SearchSpace(("a", "b", "c"), (8, 8, 8), (1, 0, 1), 1, (1, 2, 1))
    cost = ChainCost([1.0, 1.0, 1.0, 1.0])
    return Projection(space, [Constraint(cost, 0.6 * cost.total(space.sizes))])


def test_a_ratio_of_zero_takes_all_units_of_a_group_that_may_go(vanishing: Projection) -> None:
    widths = vanishing.project([0.5, 0.0, 0.5])
    assert widths == (8, 0, 8)
    assert all(width > 0 for width in vanishing.project([0.0, 0.5, 0.0]))
    assert vanishing.project([0.0, 0.0, 0.0])[1] == 0


def test_a_group_without_units_does_not_come_back_to_spend_the_rest(vanishing: Projection) -> None:
    assert vanishing.fits((8, 2, 8))
    assert vanishing.fill((1, 0, 1)) == (8, 0, 8)
