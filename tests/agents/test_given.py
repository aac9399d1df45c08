from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoprune.agents.registry import check_strategy, check_unbounded, make_strategy
from autoprune.agents.tools.warm_starts import warm_starts
from autoprune.errors import AutopruneError, BudgetError, UsageError


def test_the_given_widths_are_the_only_candidate(make_toy: Any) -> None:
    problem = make_toy([8, 6]).problem
    widths = problem.projection.uniform()
    named = dict(zip(problem.space.names, widths, strict=True))
    strategy = make_strategy("given", problem, widths=named)
    candidate = strategy.ask()
    assert candidate is not None and candidate.widths == widths and strategy.ask() is None
    check_unbounded("given", widths=named)


def test_widths_that_cannot_be_are_one_line(make_toy: Any) -> None:
    problem = make_toy([8, 6]).problem
    first, second = problem.space.names
    for widths, message in (
        ({first: 8}, "is of another network or pruned other groups"),
        ({first: 9, second: 6}, "is of another network or pruned other groups"),
        ({first: 8, second: 6}, "exceed the budget"),
    ):
        with pytest.raises(AutopruneError, match=message):
            make_strategy("given", problem, widths=widths)
    coarse = replace(problem, space=replace(problem.space, step=4, lowest=(4, 4)))
    with pytest.raises(UsageError, match=f"the width 5 of {first!r} is not allowed"):
        make_strategy("given", coarse, widths={first: 5, second: 4})
    with pytest.raises(UsageError, match="cannot have widths"):
        check_strategy("given", widths={first: 0})
    with pytest.raises(UsageError, match="needs the widths of all groups"):
        check_strategy("given")
    assert issubclass(BudgetError, AutopruneError)


def test_starts_come_first(make_toy: Any) -> None:
    problem = make_toy([8, 6]).problem
    known = problem.projection.project([0.3, 0.9])
    assert warm_starts(replace(problem, starts=(known,)))[0] == known
    assert set(warm_starts(problem)) <= set(warm_starts(replace(problem, starts=(known,))))
