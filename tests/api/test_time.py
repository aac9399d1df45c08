"""Searches that end by the clock."""

from __future__ import annotations

import json
import math
from pathlib import Path

from searches import FEW, TINY, classifier, dataset

import autoprune
from autoprune.data import Splits
from autoprune.models.demo import load_demo


def test_time_ends_a_search(digits: Splits, tmp_path: Path) -> None:
    options = {**FEW, "trials": 100_000, "time": 3.0, "strategy": "random"}
    run = autoprune.search(load_demo(), data=digits, output=tmp_path / "run", **options)
    assert 0 < run.result["search"]["trials"] < 1000
    assert math.isfinite(run.result["search"]["best_value"])


def test_time_that_is_over_at_once_leaves_one_trial_and_one_finalist(tmp_path: Path) -> None:
    options = {**TINY, "strategy": "random", "trials": 100, "time": 1e-3}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    done = run.result["search"]
    # Two measured by the judges; the finalist beside others, and as the winner alone.
    assert (done["trials"], done["evaluations"]) == (1, 1 + 2 + 1 + 1)
    assert run.result["reconstruction"] == run.result["judge"]
    assert json.loads((run.path / "result.json").read_text()) == run.result
