"""Runs beside each other, as values and as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct

from autoprune.reporting.run_records import RunRecord
from autoprune.reporting.side_by_side import comparison, comparison_table, notes


@pytest.fixture
def other(run: RunRecord) -> RunRecord:
    """The same network, cut further, without recovery."""
    score = replace_struct(run.result.score, recovered=None, pruned=0.9)
    return replace(run, label="b", result=replace_struct(run.result, score=score))


def test_values(run: RunRecord, other: RunRecord) -> None:
    found = comparison([run, other])
    assert (found["same_network"], found["notes"]) == (True, [])
    first, second = found["runs"]
    assert first["shares"] == {"flops": 0.7, "params": 0.6, "memory": 0.7, "latency": 0.8}
    assert (first["dense"], first["handed_over"], first["stage"]) == (0.95, 0.93, "recovered")
    assert (first["kl"], second["kl"], second["stage"]) == (0.1, 0.2, "pruned")
    assert second["lost"] == pytest.approx(0.05)
    assert first["latency"]["backend"] == "torch" and first["latency"]["threads"] == 2


def test_table(run: RunRecord, other: RunRecord) -> None:
    table = comparison_table([run, other])
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert "network" not in first
    assert table.caption.endswith("latency measured with torch on cpu (2 threads), batch 1")
    assert (first["run"], first["asked"], first["stage"]) == ("a", "flops=0.7", "recovered")
    assert (first["MACs"], first["latency"], first["lost"]) == ("70.0 %", "80.0 %", "-2.00 points")
    assert (second["run"], second["pruned"], second["KL"]) == ("b", "90.00 %", "0.2")


def test_different_networks_are_compared_by_what_they_share(
    run: RunRecord, other: RunRecord
) -> None:
    costs = replace_struct(other.result.costs, dense={"flops": 999.0})
    other = replace(other, result=replace_struct(other.result, costs=costs))
    assert comparison([run, other])["same_network"] is False
    assert "shares of each one's own dense network" in notes([run, other])[0]
    assert "network" in comparison_table([run, other]).columns


def test_samples_and_conditions_that_differ_are_named(run: RunRecord, other: RunRecord) -> None:
    score = replace_struct(other.result.score, samples=17)
    latency = replace_struct(other.result.costs.latency, threads=8)  # type: ignore[type-var]
    costs = replace_struct(other.result.costs, latency=latency)
    other = replace(other, result=replace_struct(other.result, score=score, costs=costs))
    assert [text.partition(" ")[2] for text in notes([run, other])] == [
        "runs are scored on different samples, or by different scores.",
        "do not compare: a: latency measured with torch on cpu (2 threads), batch 1; b: latency "
        "measured with torch on cpu (8 threads), batch 1.",
    ]
