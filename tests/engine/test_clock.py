"""Deadlines, and what a session took."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from loops import SPACE

from autoprune.engine.clock import RECOVERY_SECONDS, STAGES, Clock
from autoprune.study.ledger import Ledger


def test_recovery_takes_a_quarter_of_the_time_at_most() -> None:
    clock = Clock(began=1000.0, limit=100.0, recovery=60.0)
    assert clock.deadline == 1075.0
    assert clock.search_deadline == 1000.0 + 0.75 * 75
    short = Clock(began=1000.0, limit=100.0, recovery=10.0)
    assert short.deadline == 1090.0
    unlimited = Clock(began=1000.0, limit=None, recovery=60.0)
    assert unlimited.deadline == unlimited.search_deadline == math.inf
    assert unlimited.recovery_seconds == 60.0
    assert Clock(began=-math.inf, limit=100.0, recovery=60.0).recovery_seconds <= 0


def test_steps_of_recovery_keep_a_quarter_of_the_time_and_no_limit_without_one() -> None:
    assert Clock(began=1000.0, limit=100.0, recovery="500steps").deadline == 1075.0
    clock = Clock(began=1000.0, recovery="500steps")
    assert clock.deadline == clock.search_deadline == clock.recovery_seconds == math.inf


def test_recovery_takes_half_as_long_as_the_search_if_nobody_says() -> None:
    began = time.monotonic()
    assert 5 <= Clock(began - 10, limit=None, recovery=None).recovery_seconds < 60
    assert Clock(began - 1000, limit=None, recovery=None).recovery_seconds == RECOVERY_SECONDS


def test_rounds_share_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1010.0)
    clock = Clock(began=1000.0, limit=100.0, recovery=10.0)
    assert clock.share(None) == (clock.search_deadline, 1090.0)
    assert clock.share(4) == (1010.0 + 0.75 * 20, 1030.0)


def test_what_a_session_took_is_kept_however_it_ends(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    clock = Clock(time.monotonic())
    with pytest.raises(KeyboardInterrupt), clock.recorded(Ledger(SPACE, storage)):
        clock.add("recovery", 2.5)
        clock.count(10, 30)
        raise KeyboardInterrupt
    spent = Ledger(SPACE, storage).spent
    assert spent.keys() == {*STAGES, "total", "evaluations", "image_forwards"}
    assert (spent["recovery"], spent["evaluations"], spent["image_forwards"]) == (2.5, 2, 40)
