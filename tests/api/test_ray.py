"""A search on Ray workers finds what one in this process finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from searches import TINY, classifier, dataset

import autoprune
from autoprune.study.ledger import read_trials
from autoprune.study.run_directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


def found(run: Path, **options: Any) -> tuple[Any, ...]:
    """Return the study without its seconds, and the files of a search."""
    own = {**TINY, "strategy": "random", "trials": 6, "seed": 3, "at_once": 2, "recover": "off"}
    autoprune.search(classifier(), data=dataset(), output=run, **{**own, **options})
    with RunDirectory(run).stored_study() as study:
        trials = read_trials(study)
    known = [(trial.candidate.widths, trial.value, trial.error) for trial in trials]
    return known, *((run / name).read_bytes() for name in ("policy.json", "pruned.safetensors"))


def test_the_workers_of_a_cluster_find_what_this_process_finds(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = found(tmp_path / "here")
        for workers in (1, 2):
            assert found(tmp_path / str(workers), ray=True, workers=workers) == expected
    finally:
        torch.set_num_threads(before)
    stored = (tmp_path / "2" / "config.toml").read_text()
    assert all(line in stored for line in ('ray = "local"', "workers = 2", "at_once = 2"))
