"""The frontier and the best so far, against values found by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as replace_struct
from run_files import TRIALS, write_run

from autoprune.evaluation.measurement import Scores
from autoprune.reporting.run_records import RunRecord, read_runs
from autoprune.reporting.scores import KINDS, best_so_far, frontier, kinds_of

_, KL, TOP1 = KINDS


def test_the_frontier_of_losses_and_of_scores() -> None:
    points = [(3.0, 0.2), (1.0, 0.9), (2.0, 0.5), (2.0, 0.4), (2.5, 0.4), (4.0, 0.3)]
    assert frontier(points, is_loss=True) == [(1.0, 0.9), (2.0, 0.4), (3.0, 0.2)]
    assert frontier(points, is_loss=False) == [(1.0, 0.9)]
    assert frontier([], is_loss=True) == []


def test_the_best_so_far_counts_evaluations_and_leaves_probes_out(run: RunRecord) -> None:
    assert [one[1] for one in TRIALS].index("probe") == 1
    assert best_so_far(run.trials, KL) == [(1, 0.4), (3, 0.2), (5, 0.2)]
    assert best_so_far(run.trials, TOP1) == [(1, 0.80), (3, 0.90), (5, 0.91)]


def test_kinds_are_those_that_every_run_has(run: RunRecord, tmp_path: Path) -> None:
    assert kinds_of([run]) == [KL, TOP1]
    trials = [(widths, kind, kl, None) for widths, kind, kl, _ in TRIALS]
    (other,) = read_runs([write_run(tmp_path / "b", trials=trials)])
    assert kinds_of([run, other]) == [KL]


def test_a_score_that_is_not_finite_is_none(run: RunRecord) -> None:
    (trial, *_) = run.trials
    assert trial.measurement is not None
    assert KL.of_trial(trial) == 0.4
    for value in (math.nan, math.inf, None):
        broken = replace_struct(trial.measurement, scores=Scores(kl=value))
        assert KL.of_trial(replace(trial, measurement=broken)) is None
    assert KL.of_trial(replace(trial, measurement=None)) is None
