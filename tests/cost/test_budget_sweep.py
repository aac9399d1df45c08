"""Sweeps: what is read, what is refused, and the budgets they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost.budget import Budget
from autoprune.cost.budget_sweep import MOST_BUDGETS, Sweep
from autoprune.errors import BudgetError


def test_both_ends_are_budgets_and_decimals_stay_exact() -> None:
    sweep = Sweep.parse(" flops = 0.3 : 0.9 : 0.1 ")
    assert sweep.limits == ("0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
    assert str(sweep) == "flops=0.3:0.9:0.1" and Sweep.parse(str(sweep)) == sweep


def test_units_and_an_end_that_no_step_meets() -> None:
    assert Sweep.parse("latency=2ms:3.2ms:0.5ms").limits == ("2ms", "2.5ms", "3ms")
    assert Sweep.parse("params=10M:30M:10M").limits == ("10M", "20M", "30M")
    assert Sweep.parse("flops=0.5:0.5:0.1").limits == ("0.5",)


def test_further_bounds_hold_for_all() -> None:
    sweep = Sweep.parse("flops=0.4:0.5:0.1")
    assert sweep.budgets() == {"flops-0.4": "flops=0.4", "flops-0.5": "flops=0.5"}
    assert sweep.budgets("params=0.7")["flops-0.4"] == "flops=0.4,params=0.7"
    with pytest.raises(BudgetError, match="leave flops out of it"):
        sweep.budgets("params=0.7,flops=0.3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not COST=FROM:TO:STEP"),
        ("flops", "is not COST=FROM:TO:STEP"),
        ("flops=0.3:0.9", "is not COST=FROM:TO:STEP"),
        ("flops=0.3:0.9:0.1:0.1", "is not COST=FROM:TO:STEP"),
        ("flops=0.3:0.9:x", "is not COST=FROM:TO:STEP"),
        ("latency=2ms:3:1ms", "in one unit"),
        ("flops=0.3.1:0.9:0.1", "not a number"),
        ("flops=0.9:0.3:0.1", "must go up from 0.9 to 0.3"),
        ("flops=0.3:0.9:0", "in steps above zero"),
        ("flops=0.1:0.9:0.0001", f"8001 budgets, more than {MOST_BUDGETS}"),
        ("flop=0.3:0.9:0.1", "did you mean 'flops'"),
        ("flops=1:9:1", "far too small"),
        ("flops=0:0.9:0.1", "above zero"),
    ],
)
def test_what_is_no_sweep_is_refused(text: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Sweep.parse(text)


@given(st.integers(1, 99), st.integers(0, 98), st.integers(1, 99))
def test_all_bounds_lie_between_the_ends_at_equal_steps(first: int, more: int, step: int) -> None:
    last = min(first + more, 100)
    text = f"params={first / 100}:{last / 100}:{step / 100}"
    limits = [
        round(100 * Budget.parse(one).limits["params"].value)
        for one in Sweep.parse(text).budgets().values()
    ]
    assert limits == list(range(first, last + 1, step))
