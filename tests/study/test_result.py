from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from autoprune.cost.latency.figures import LatencyFigures
from autoprune.errors import RunError
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.study.result import (
    Limits,
    Outcome,
    costs_of,
    frontier,
    frontier_of,
    limits_of,
    predictions_of,
    stage_seconds,
    with_export,
)
from autoprune.study.run_directory import RunDirectory
from autoprune.study.trial import Candidate, Trial

COST_KEYS = {"flops", "params", "latency_ms", "memory_bytes"}
WINNER = Measurement(
    widths=(3, 5),
    names=("a", "b"),
    scores=Scores(kl=0.5, samples=10),
    dense=Scores(kl=0.0, samples=10),
    costs={"flops": 50.0, "params": 7.0, "memory": 30.0},
    dense_costs={"flops": 100.0, "params": 9.0, "memory": 40.0},
    seconds={"scoring": 0.5, "surgery": 0.25},
)
OUTCOME = Outcome(
    winner=WINNER,
    sizes=(4, 5),
    dense=Scores(kl=0.0, loss=0.25, top1=0.75, samples=300),
    pruned=Scores(kl=0.125, loss=0.5, top1=0.5, agreement=0.625, samples=300),
    recovered=None,
    split="test",
    latency=LatencyFigures("torch", "cpu", 1, None, (2.0, 1.0)),
)


def test_report_has_the_documented_keys_and_figures() -> None:
    report = OUTCOME.report()
    assert report.keys() == {"costs", "score", "widths"}
    assert report["widths"] == {"a": [3, 4], "b": [5, 5]}
    assert report["score"] == {
        "metric": "top1", "dense": 0.75, "pruned": 0.5, "recovered": None, "split": "test",
        "samples": 300, "kl": 0.125, "loss": 0.5, "agreement": 0.625, "recovered_kl": None,
        "recovered_loss": None, "recovered_agreement": None,
    }  # fmt: skip
    costs = report["costs"]
    assert costs.keys() == {"dense", "pruned", "latency"}
    dense = {"flops": 100, "params": 9, "latency_ms": 2.0, "memory_bytes": 40}
    assert costs["dense"] == dense and costs["pruned"].keys() == COST_KEYS
    assert costs["pruned"]["flops"] == 50 and costs["pruned"]["latency_ms"] == 1.0
    assert costs["latency"] == {
        "predicted_ms": None, "measured_ms": 1.0, "backend": "torch", "device": "cpu",
        "threads": 1,
        "predicted_dense_ms": None, "measured_dense_ms": 2.0, "verified": None,
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == report


def test_report_tells_recovery_apart() -> None:
    recovered = replace(OUTCOME, recovered=Scores(0.1, 0.4, 0.625, agreement=0.75, samples=300))
    score = recovered.report()["score"]
    known = {"recovered": 0.625, "recovered_kl": 0.1, "recovered_loss": 0.4}
    known["recovered_agreement"] = 0.75
    assert score == {**OUTCOME.report()["score"], **known}


def test_report_of_another_task_than_classification() -> None:
    custom = replace(OUTCOME, dense=Scores(custom=0.0), pruned=Scores(custom=-2.0), split="custom")
    score = custom.report()["score"]
    assert (score["metric"], score["dense"], score["pruned"]) == ("custom", 0.0, -2.0)
    assert score["kl"] is score["loss"] is score["samples"] is None


def test_report_without_labels() -> None:
    unlabelled = replace(OUTCOME, dense=Scores(kl=0.0, samples=9), pruned=Scores(kl=0.1, samples=9))
    score = unlabelled.report()["score"]
    assert (score["metric"], score["dense"], score["pruned"]) == ("top1", None, None)


def trial_of(
    flops: float, kl: float | None, params: float = 1.0, custom: float | None = None
) -> Trial:
    costs = {"flops": flops, "params": params}
    scores = Scores(kl=kl, custom=custom)
    found = structs.replace(WINNER, widths=(int(flops), int(params)), costs=costs, scores=scores)
    return Trial(Candidate(found.widths), None if kl is None else -kl, found)


@pytest.mark.parametrize("seed", range(5))
def test_frontier_is_the_pareto_front(seed: int) -> None:
    points = np.random.default_rng(seed).integers(1, 12, size=(40, 2)).tolist()
    front = frontier(trial_of(float(x), float(y)) for x, y in points)
    dominated = {
        (x, y) for x, y in points for a, b in points if (a <= x and b <= y) and (a, b) != (x, y)
    }
    found = [(entry["costs"]["flops"], entry["kl"]) for entry in front]
    assert found == sorted(set(map(tuple, points)) - dominated)


def test_frontier_passes_over_trials_without_kl() -> None:
    failed = Trial(Candidate((1, 1)), None, error="out of memory")
    assert frontier([failed, trial_of(5.0, None)]) == []
    costs, widths = {"flops": 5.0, "params": 1.0}, {"a": 5, "b": 1}
    assert frontier([trial_of(5.0, 0.5), failed]) == [
        {"costs": costs, "kl": 0.5, "custom": None, "widths": widths}
    ]


def test_frontier_holds_the_best_at_every_cost() -> None:
    few_macs, few_params = trial_of(2.0, 0.5, params=9.0), trial_of(8.0, 0.5, params=2.0)
    worse, best = trial_of(8.0, 0.6, params=9.0), trial_of(9.0, 0.1, params=9.0)
    front = frontier([worse, best, few_params, few_macs])
    assert [entry["costs"]["params"] for entry in front] == [9.0, 2.0, 9.0]
    assert [entry["kl"] for entry in front] == [0.5, 0.5, 0.1]


def test_frontier_goes_by_the_score_of_the_users_own() -> None:
    front = frontier([trial_of(5.0, None, custom=0.5), trial_of(6.0, None, custom=0.4)])
    assert [(entry["kl"], entry["custom"]) for entry in front] == [(None, 0.5)]


def test_seconds_add_up_over_trials() -> None:
    trials = [trial_of(1.0, 0.1), Trial(Candidate((1, 1)), None), trial_of(2.0, 0.2)]
    assert stage_seconds(trials) == {"scoring": 1.0, "surgery": 0.5}


def test_an_exported_file_replaces_the_one_of_its_format(tmp_path) -> None:
    run = RunDirectory(tmp_path)
    run.save_result({"seconds": {}})
    for name, is_int8, size in (("onnx", False, 1), ("onnx", True, 2), ("onnx", False, 3)):
        run.save_result(with_export(run, {"format": name, "int8": is_int8, "bytes": size}))
    result = run.load_result()
    assert [one["bytes"] for one in result["export"]] == [2, 3]
    assert result["seconds"] == {}
    run.save_result({"export": [3]})
    with pytest.raises(RunError, match="was altered"):
        with_export(run, {"format": "onnx", "int8": False})


def result_of(folder: Path, **result: Any) -> RunDirectory:
    run = RunDirectory(folder)
    run.result_path.write_text(json.dumps(result))
    return run


ROW = {"flops": 2, "params": 3.5}


def test_older_results_have_fewer_costs_and_newer_ones_more(tmp_path: Path) -> None:
    newer = {**ROW, "memory_bytes": 4, "energy": "low"}
    run = result_of(tmp_path, costs={"dense": newer, "pruned": ROW, "latency": None}, more=1)
    assert costs_of(run) == {"dense": {**ROW, "memory_bytes": 4.0}, "pruned": ROW}


def test_results_that_say_little_are_read(tmp_path: Path) -> None:
    run = result_of(tmp_path, search={"limits": {"trials": 9}})
    assert limits_of(run) == (Limits(trials=9), None) and frontier_of(run) == ()
    run = result_of(tmp_path, search={"trials": 4}, frontier=[{"widths": {"a": 3}, "kl": None}])
    assert limits_of(run) == (Limits(), 4) and frontier_of(run) == ({"a": 3},)


@pytest.mark.parametrize(
    ("latency", "found"),
    [
        ({"predicted_ms": 1, "predicted_dense_ms": 2.5, "device": "x"}, (2.5, 1.0)),
        ({"predicted_ms": None, "predicted_dense_ms": None}, None),
    ],
)
def test_predictions_are_those_of_both_networks(
    latency: dict[str, Any], found: tuple[float, float] | None, tmp_path: Path
) -> None:
    costs = {"latency": latency, "dense": ROW, "pruned": ROW}
    assert predictions_of(result_of(tmp_path, costs=costs, budget="flops=1")) == (found, "flops=1")
    assert predictions_of(result_of(tmp_path, costs=costs)) == (found, None)


ALTERED: list[tuple[Callable[[RunDirectory], object], dict[str, Any], str]] = [
    (costs_of, {}, "'costs' is missing"),
    (costs_of, {"costs": {"dense": {"flops": 1}, "pruned": ROW}}, "'params' is missing"),
    (costs_of, {"costs": {"dense": {**ROW, "flops": -1}, "pruned": ROW}}, "costs.dense.flops: -1"),
    (
        costs_of,
        {"costs": {"dense": {**ROW, "memory_bytes": None}, "pruned": ROW}},
        "memory_bytes: None is not a number",
    ),
    (limits_of, {"search": None}, "search: None is not an object"),
    (limits_of, {"search": {"trials": None}}, "search.trials: None is not a whole number"),
    (limits_of, {"search": {"trials": 1.0}}, "search.trials: 1.0 is not a whole number"),
    (limits_of, {"search": {"limits": {"time": math.nan}}}, "search.limits.time: nan"),
    (frontier_of, {"frontier": [{}]}, r"frontier\[0\]: 'widths' is missing"),
    (frontier_of, {"frontier": [{"widths": {"a": True}}]}, "widths: a: True is not a whole"),
    (predictions_of, {"costs": {"dense": {}, "pruned": {}}}, "'latency' is missing"),
]


@pytest.mark.parametrize(("read", "result", "words"), ALTERED)
def test_altered_results_are_refused(
    read: Callable[[RunDirectory], object], result: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=f"was altered, or is of an older version .*{words}"):
        read(result_of(tmp_path, **result))
