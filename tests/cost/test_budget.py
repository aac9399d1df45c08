from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import COSTS
from autoprune.cost.budget import UNBOUNDED, Budget, Limit
from autoprune.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("flops=0.5", {"flops": Limit(0.5, True)}),
        ("flops=1", {"flops": Limit(1.0, True)}),
        ("flops=1.0", {"flops": Limit(1.0, True)}),
        ("params=1e-2", {"params": Limit(0.01, True)}),
        ("latency=.25", {"latency": Limit(0.25, True)}),
        ("flops=+0.5", {"flops": Limit(0.5, True)}),
        ("flops=60M", {"flops": Limit(60e6, False)}),
        ("flops=60m", {"flops": Limit(60e6, False)}),
        ("flops=60 M", {"flops": Limit(60e6, False)}),
        ("flops=150", {"flops": Limit(150.0, False)}),
        ("flops=4000000", {"flops": Limit(4e6, False)}),
        ("flops=0.5k", {"flops": Limit(500.0, False)}),
        ("flops=2e3k", {"flops": Limit(2e6, False)}),
        ("flops=1.2G", {"flops": Limit(1.2e9, False)}),
        ("flops=1T", {"flops": Limit(1e12, False)}),
        ("params=2.5B", {"params": Limit(2.5e9, False)}),
        ("latency=5ms", {"latency": Limit(5.0, False)}),
        ("latency=0.5ms", {"latency": Limit(0.5, False)}),
        ("latency=250us", {"latency": Limit(0.25, False)}),
        ("latency=2s", {"latency": Limit(2000.0, False)}),
        ("memory=20MB", {"memory": Limit(20e6, False)}),
        ("memory=512kb", {"memory": Limit(512e3, False)}),
        ("memory=1GB", {"memory": Limit(1e9, False)}),
        ("memory=100B", {"memory": Limit(100.0, False)}),
        (
            " flops = 0.5 , latency = 5ms ",
            {"flops": Limit(0.5, True), "latency": Limit(5.0, False)},
        ),
    ],
)
def test_every_form(text: str, limits: dict[str, Limit]) -> None:
    assert Budget.parse(text).limits == pytest.approx(limits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a bound; write e.g. flops=0.5"),
        ("flops", "'flops' is not a bound"),
        ("flops=", "'flops=' is not a bound"),
        ("=0.5", "'=0.5' is not a bound"),
        ("0.5", "'0.5' is not a bound"),
        ("flops=0.5,", "'' is not a bound"),
        ("flop=0.5", "unknown cost 'flop'; did you mean 'flops'?"),
        ("energy=0.5", "unknown cost 'energy'"),
        ("flops=0.5,flops=60M", "'flops' is given twice"),
        ("flops=0", "above zero"),
        ("flops=0M", "above zero"),
        ("flops=2", "not a share in .*flops=2M"),
        ("params=50", "params=0.5 for 50 percent"),
        ("flops=-0.5", "not a number|above zero"),
        ("flops=-5M", "above zero"),
        ("flops=1e999", "finite"),
        ("flops=half", "not a number with one of the units k, M, G, T"),
        ("flops=nan", "not a number"),
        ("flops=inf", "not a number"),
        ("flops=1.2.3", "not a number"),
        ("flops=.", "not a number"),
        ("flops=50%", "not a number"),
        ("flops=60Q", "not a number with one of the units"),
        ("flops=5ms", "not a number with one of the units k, M, G, T"),
        ("latency=5", "not a number with one of the units ms, us, s"),
        ("latency=5M", "not a number with one of the units ms, us, s"),
        ("memory=20", "not a number with one of the units B, kB, MB, GB"),
        ("flops=0=5", "not a number"),
        ("flops=1 2", "not a number"),
        ("flops=٣", "not a number"),
    ],
)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)


def test_shares_resolve_against_the_dense_cost() -> None:
    budget = Budget.parse("flops=0.5,params=2.5M")
    assert budget.resolve({"flops": 80.0, "params": 1e7}) == {"flops": 40.0, "params": 2.5e6}


shares = st.builds(Limit, st.floats(1e-6, 1), st.just(True))
absolutes = st.builds(Limit, st.floats(100, 1e12), st.just(False))


@given(st.dictionaries(st.sampled_from(COSTS), shares | absolutes, min_size=1))
def test_text_says_the_budget(limits: dict[str, Limit]) -> None:
    again = Budget.parse(str(Budget(limits))).limits
    assert again.keys() == limits.keys()
    for name, limit in limits.items():
        assert again[name].is_share == limit.is_share
        assert again[name].value == pytest.approx(limit.value)


@given(st.text(max_size=20))
def test_any_text_is_a_budget_or_a_budget_error(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetError:
        return
    assert budget.limits or text.strip() == UNBOUNDED
