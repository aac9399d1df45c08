"""The result of a search whose parts are known."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loops import SPACE, measurement, problem
from torch import nn

from autoprune.cost.latency.figures import LatencyFigures
from autoprune.engine import summary
from autoprune.engine.clock import Clock
from autoprune.engine.evaluators import RepairKind
from autoprune.engine.finalists import Finalist
from autoprune.engine.loop import LoopReport
from autoprune.engine.recover import Recovered, Winner
from autoprune.engine.rounds import RoundResult
from autoprune.engine.summary import Found, summarize
from autoprune.errors import DataError
from autoprune.evaluation.measurement import Scores
from autoprune.recovery.distillation import Recovery
from autoprune.recovery.length import Length
from autoprune.study.ledger import Ledger
from autoprune.study.trial import Candidate, Trial

WIDTHS = (5, 4, 3)
LATENCY = LatencyFigures("torch", "cpu", 1, None, (4.0, 2.0))
SELECTED = measurement(WIDTHS).scores


def result(tmp_path: Path, test: object = None, recovered: bool = False) -> dict[str, Any]:
    ledger = Ledger(SPACE, f"sqlite:///{tmp_path}/study.db")
    for widths, value in (((9, 3, 3), -4.0), (WIDTHS, -1.0), ((1, 1, 1), None)):
        found = measurement(widths) if value else None
        ledger.record(Trial(Candidate(widths), value, found, None if value else "no memory"))
    clock = Clock(time.monotonic())
    clock.count(7)
    config = SimpleNamespace(
        strategy_name="auto", reward="kl", seed=3, budget="flops=15", time=60.0, recover=0.0,
    )  # fmt: skip
    images = SimpleNamespace(
        test=test, signal_split="val",
        calibration=SimpleNamespace(first=lambda n: SimpleNamespace(inputs=None)),
    )  # fmt: skip
    context: Any = SimpleNamespace(
        model=nn.Identity(),
        config=config,
        workers=1,
        images=images,
        clock=clock,
        evaluate=None,
        distance=None,
    )
    evaluators: Any = SimpleNamespace(
        search_repair=RepairKind.QUICK, forwards=lambda found: 0 if found is None else 100
    )
    posed = problem(trials=10)
    structure = SimpleNamespace(left=lambda widths: widths)
    searched: Any = SimpleNamespace(space=SPACE, projection=posed.projection, structure=structure)
    strategy: Any = SimpleNamespace(name="random", problem=posed, agent_from=None)
    finalist = Finalist(measurement(WIDTHS), nn.Identity(), RepairKind.SEQUENTIAL)
    better = Recovered(nn.Identity(), measurement((5, 4, 2)))
    won = RoundResult(strategy, LoopReport(0.0), finalist, LATENCY)
    went = Recovery(nn.Identity(), 2.0, 1.0, 9, True, Length(40, "steps", 8))
    winner = Winner(finalist, better, went) if recovered else Winner(finalist)
    found = Found(won, winner, trials=10)
    return summarize(context, searched, evaluators, ledger, found)


def test_what_repeats_the_recovery(tmp_path: Path) -> None:
    said = result(tmp_path, recovered=True)["recovery"]
    assert said == {"steps": 9, "repeated_by": "8/40steps"}


def test_no_recovery_is_none(tmp_path: Path) -> None:
    assert result(tmp_path)["recovery"] is None


def test_trials_evaluations_and_who_did_what(tmp_path: Path) -> None:
    said = result(tmp_path)
    search = said["search"]
    assert (search["trials"], search["evaluations"], search["failed"]) == (3, 3 + 1, 1)
    assert (search["image_forwards"], search["best_value"]) == (200 + 7, -1.0)
    assert search["limits"] == {"trials": 10, "time": 60.0, "recover": 0.0}
    assert (said["judge"], said["reconstruction"]) == ("quick-sequential", "sequential")
    assert (said["strategy"], said["searched_by"]) == ("auto", "random")
    assert said["widths"] == {"a": [5, 9], "b": [4, 9], "c": [3, 9]}
    assert said["costs"]["latency"]["measured_ms"] == 2.0


def test_without_a_test_split_the_scores_are_those_of_selection(tmp_path: Path) -> None:
    score = result(tmp_path, recovered=True)["score"]
    assert (score["split"], score["kl"]) == ("selection", SELECTED.kl)
    assert score["recovered_kl"] == measurement((5, 4, 2)).scores.kl


def test_the_test_split_is_scored_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = [Scores(kl=0.0, top1=0.9), Scores(kl=0.3, top1=0.8), Scores(kl=0.2, top1=0.85)]
    monkeypatch.setattr(summary, "score_on_split", lambda *given: scored)
    score = result(tmp_path, test="images", recovered=True)["score"]
    assert (score["split"], score["dense"], score["pruned"], score["recovered"]) == (
        "test", 0.9, 0.8, 0.85,
    )  # fmt: skip


def test_a_damaged_test_split_does_not_lose_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*args: object) -> None:
        raise DataError("labels from 0 to 99.")

    monkeypatch.setattr(summary, "score_on_split", damaged)
    with caplog.at_level(logging.INFO, "autoprune"):
        score = result(tmp_path, test="images")["score"]
    assert (score["split"], score["kl"]) == ("selection", SELECTED.kl)
    assert "the test split cannot be scored: labels from 0 to 99; the scores are" in caplog.text
