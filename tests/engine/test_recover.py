"""Recovery counts only if the selection images say so."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from autoprune.core.policy import Widths
from autoprune.engine import recover as stage
from autoprune.engine.clock import Clock
from autoprune.engine.evaluators import RepairKind
from autoprune.engine.finalists import Finalist
from autoprune.engine.recover import recover_winner
from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.recovery.length import Length

CUT = nn.Identity()


def measured(kl: float) -> Measurement:
    return Measurement((3,), ("a",), Scores(kl=kl, samples=7), Scores(kl=0.0), {}, {}, {})


def outcome(kl: float, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0, **done: Any) -> Any:
    """Return the winner whose recovery ends at a KL; it was cut at 0.5."""
    recovered = nn.Identity()

    def measure_network(network: nn.Module, widths: Widths) -> Measurement:
        assert network is recovered and widths == (3,)
        if kl != kl:
            raise MemoryError("too large")
        return measured(kl)

    again = Length(4, "steps")
    trained = SimpleNamespace(
        network=recovered, steps=4, interrupted=False, repeated_by=again, **done
    )
    monkeypatch.setattr(stage, "recover", lambda *args: trained)
    monkeypatch.setattr(stage, "_task", lambda *args: None)
    clock = Clock(0.0, None, seconds)
    context: Any = SimpleNamespace(
        distance=None,
        clock=clock,
        config=SimpleNamespace(recover=seconds, seed=0),
        run=SimpleNamespace(recovery_path=Path("nowhere")),
        reward=lambda measurement: -measurement.scores.kl,
        step=lambda name: lambda done, total: None,
    )
    evaluators: Any = SimpleNamespace(
        selection={RepairKind.QUICK: SimpleNamespace(measure_network=measure_network)}
    )
    finalist = Finalist(measured(0.5), CUT, RepairKind.QUICK)
    problem: Any = None
    return recover_winner(context, problem, evaluators, finalist), recovered, clock


def test_a_better_network_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    winner, recovered, clock = outcome(0.4, monkeypatch)
    assert winner.network is recovered and winner.recovered.measurement == measured(0.4)
    assert (clock.evaluations, clock.image_forwards) == (1, 7)
    assert clock.seconds["recovery"] > 0


@pytest.mark.parametrize("kl", [0.5, 0.6])
def test_one_that_is_no_better_is_not(
    kl: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "autoprune"):
        winner, _, _ = outcome(kl, monkeypatch)
    assert winner.network is CUT and winner.recovered is None
    assert "recovery did not help in 4 steps" in caplog.text


def test_whatever_fails_leaves_the_network_of_the_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "autoprune"):
        winner, _, _ = outcome(float("nan"), monkeypatch)
    assert (
        winner.network is CUT
        and "no recovery: out of memory (MemoryError: too large)" in caplog.text
    )


def test_it_says_how_many_steps_repeat_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "autoprune"):
        winner, _, _ = outcome(0.4, monkeypatch)
    assert winner.recovery.repeated_by == Length(4, "steps")
    assert "recovery made 4 steps: recover='4steps' repeats it" in caplog.text


def test_no_time_is_no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    winner, _, clock = outcome(0.1, monkeypatch, seconds=0.0)
    assert winner.network is CUT and clock.evaluations == 0
