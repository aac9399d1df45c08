"""Seconds by stage."""

from __future__ import annotations

import pytest

from autoprune.core.stages import StageTimes


def test_stages_add_up() -> None:
    times = StageTimes("scoring", "surgery")
    times.add("scoring", 1.5)
    times.add("scoring", 2.0)
    times.add("batchnorm", 0.25)
    assert dict(times.seconds) == {"scoring": 3.5, "surgery": 0.0, "batchnorm": 0.25}


def test_what_fails_took_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 14.0])
    monkeypatch.setattr("autoprune.core.stages.time.perf_counter", lambda: next(clock))
    times = StageTimes()
    with pytest.raises(ValueError), times.stage("surgery"):
        raise ValueError
    assert dict(times.seconds) == {"surgery": 4.0}


def test_nobody_else_changes_them() -> None:
    with pytest.raises(TypeError):
        StageTimes("scoring").seconds["scoring"] = 1.0  # type: ignore[index]
