"""The table that a search measures itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.lock import held
from autoprune.core.progress import Progress
from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.table import LatencyTable
from autoprune.engine.latency_table import latency_cost
from autoprune.errors import MeasuringError, RunError, UsageError
from autoprune.options.search import SearchConfig
from autoprune.profiling import host
from autoprune.profiling.host import measure_table
from autoprune.profiling.subject import Subject
from autoprune.structure.tracing.trace import trace

IMAGE = torch.randn(1, 3, 8, 8)
CONDITIONS = Conditions(backend="stairs")


def network(width: int = 24) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 10, 1))


@pytest.fixture(autouse=True)
def device(stairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host is a device whose latencies are known."""
    monkeypatch.setattr(host, "make_backend", stairs)


def subject(model: nn.Module) -> Subject:
    return Subject(model, trace(model, IMAGE), IMAGE)


def measured(path: Path, model: nn.Module, **options: Any) -> LatencyTable:
    given = {"progress": Progress(), **options}
    return measure_table(subject(model), host.make_backend(CONDITIONS), path, **given)


@pytest.mark.parametrize("left", ["another network's", '{"format": "damaged"}\n', "no JSON"])
def test_a_search_drops_measurements_that_are_not_its_own(
    left: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They may have been left by a search of the same name that was killed."""
    path, part = tmp_path / "run.latency.json", tmp_path / "run.latency.json.part"
    if left == "another network's":
        with pytest.raises(MeasuringError):
            measured(path, network(64), deadline=0.0)
    else:
        part.write_text(left)
    before = part.read_text()
    with pytest.raises(UsageError, match="remove it to begin"):
        measured(path, network())
    assert part.read_text() == before
    config = SearchConfig("latency=0.5")
    with caplog.at_level(logging.INFO, "autoprune"):
        cost = latency_cost(subject(network()), config, path, Progress())
    assert cost is not None and "measured from the start" in caplog.messages[1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.latency.json"]


def test_one_process_at_a_time_measures_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with (
        held(tmp_path / ".table.json.lock", "it"),
        pytest.raises(RunError, match=r"the latency table '.*table.json' is in use by process"),
    ):
        measured(path, network())
    measured(path, network())
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def test_the_time_of_a_search_is_that_of_measuring_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, path = network(), tmp_path / "run.latency.json"
    config = SearchConfig("latency=0.5")
    with pytest.raises(MeasuringError, match=r"time is too short .* autoprune profile"):
        latency_cost(subject(model), config, path, Progress(), deadline=0.0)
    assert path.with_name(f"{path.name}.part").exists() and not path.exists()
    with caplog.at_level(logging.INFO, "autoprune"):
        cost = latency_cost(subject(model), config, path, Progress())
    assert cost is not None and "made before" in caplog.text
