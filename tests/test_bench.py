"""Who judges candidates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from searches import TINY, classifier, dataset

import autoprune
from autoprune import bench
from autoprune.bench import QUICK


@pytest.mark.parametrize(
    ("affordable", "workers", "judge"),
    # Two at once would need twice the memory that holds all samples of one.
    [(math.inf, 1, QUICK), (0.0, 1, "one-shot+batchnorm"), (math.inf, 2, "one-shot+batchnorm")],
)
def test_candidates_are_repaired_in_little_where_that_is_affordable(
    affordable: float, workers: int, judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "CLEARLY", math.inf)  # the last judge is preferred
    monkeypatch.setattr(bench, "AFFORDABLE", affordable)
    options = {**TINY, "strategy": "random", "trials": 2, "workers": workers}
    run = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **options)
    assert run.result["judge"] == judge
    more = {**options, "trials": 3, "resume": True}
    again = autoprune.search(classifier(), data=dataset(), output=tmp_path / "run", **more)
    assert again.result["judge"] == judge and again.result["search"]["trials"] == 3
