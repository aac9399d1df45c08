"""Why a layer has its width, against values found by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct

from autoprune.errors import UsageError
from autoprune.reporting.explanation import (
    StepFacts,
    bounded_cost,
    explain_group,
    explain_groups,
    find_group,
)
from autoprune.reporting.reasons import groups_table, reasons, trials_table
from autoprune.reporting.run_records import RunRecord
from autoprune.study.group_records import FrozenRecord


def test_the_facts_of_a_group(run: RunRecord) -> None:
    stem, body = explain_groups(run)
    assert (stem.kept, stem.size, stem.share) == (6, 8, 0.8)
    # 0.1 for each unit of the stem that is cut, and 20 of 200 MACs.
    assert (stem.now, stem.half_cut) == (0.2, 0.4)
    assert stem.fewer is not None and stem.more is not None
    assert stem.fewer.saved == pytest.approx(0.1) and stem.fewer.added == pytest.approx(0.1)
    assert stem.more.saved == pytest.approx(-0.1) and stem.more.added == pytest.approx(-0.1)
    assert stem.fewer.price == pytest.approx(0.01)
    assert body.fewer is not None and body.fewer.price == pytest.approx(0.08)


def test_a_step_that_saves_nothing_has_no_price() -> None:
    assert StepFacts(3, 0.0, 0.5).price is None
    assert StepFacts(3, 0.1, None).price is None


def test_the_trials_that_differ_here_the_most_similar_first(run: RunRecord) -> None:
    found = explain_group(run, "body").trials
    assert [(one.number, one.width) for one in found] == [(3, 2), (4, 1), (5, 3), (1, 4)]
    assert [one.apart for one in found] == [0.0, 0.0, 0.125, 0.25]
    assert [one.cost for one in found] == [0.7, 0.65, 0.65, 0.6]
    assert [one.score for one in found] == [0.2, 0.3, 0.25, 0.4]
    rows = trials_table(run, explain_group(run, "body")).rows
    assert rows[0] == ["3 (the winner)", "2", "0.0 %", "70.00 %", "0.2"]


def test_sentences(run: RunRecord) -> None:
    facts = explain_groups(run)
    assert list(reasons(facts[1], facts)) == [
        "body keeps 2 of 4 units (50 %); 20.0 % of the dense MACs go with it.",
        "Layers that share these channels: body, body.twin.",
        "One step fewer (1 units) would save 5.00 % of the dense MACs and add 0.4 to the expected "
        "loss.",
        "One step more (3 units) would cost 5.00 % of the dense MACs and take 0.4 off the expected "
        "loss.",
        "Cutting further here loses 0.08 for each percent of the dense MACs saved, 1.8 times the "
        "median of all groups (place 1 of 2, the dearest first).",
    ]


def test_a_run_of_an_older_version_says_what_it_can(run: RunRecord) -> None:
    run = replace(run, groups=None)
    facts = explain_groups(run)
    assert list(reasons(facts[0], facts)) == [
        "stem keeps 6 of 8 units (75 %).",
        "Curve and costs are not known: an older version made the run.",
    ]
    assert [one.number for one in explain_group(run, "stem").trials] == [3, 5, 1]
    assert [str(cell) for cell in groups_table(facts).rows[0]] == [
        "stem",
        "6 / 8",
        "75 %",
        *"–" * 5,
    ]


def test_the_cost_is_the_one_that_the_budget_bounds(run: RunRecord) -> None:
    for budget, cost in (
        ("memory=0.5,flops=0.9", "memory"),
        ("latency=0.5,params=0.5", "params"),  # latency is not known here
        (None, "flops"),
        ("none", "flops"),
    ):
        changed = replace(run, result=replace_struct(run.result, budget=budget))
        assert bounded_cost(changed) == cost


def test_a_layer_is_found_by_any_of_its_names(run: RunRecord) -> None:
    assert find_group(run, "stem") == find_group(run, "stem.twin") == "stem"
    frozen = find_group(run, "head")
    assert isinstance(frozen, FrozenRecord) and frozen.reason == "the network's output"
    with pytest.raises(UsageError, match=r"no layer 'sten'; did you mean 'stem'\?"):
        find_group(run, "sten")
