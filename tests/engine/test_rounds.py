"""Rounds on evaluators and a device that know the answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loops import SPACE, SumCost, measurement, problem, reward
from torch import nn

from autoprune.agents.evolution import EvolutionStrategy
from autoprune.core.policy import Widths
from autoprune.core.progress import Progress
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.engine.clock import Clock
from autoprune.engine.evaluators import RepairKind
from autoprune.engine.executors import LocalExecutor
from autoprune.engine.limits import StageLimits
from autoprune.engine.rounds import Rounds
from autoprune.errors import RunError
from autoprune.evaluation.measurement import Measurement
from autoprune.search_spaces.projection import Constraint, Projection
from autoprune.study.ledger import Ledger


class Milliseconds(SumCost):
    name = "latency"
    unit = "ms"


class Known:
    """An evaluator that builds nothing and scores by distance from the best widths."""

    dense = measurement(SPACE.sizes).dense

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def measure(self, widths: Widths, base: object = None, incumbent: object = None) -> Measurement:
        if self.fails:
            raise MemoryError("too large")
        found = measurement(widths)
        costs = {"latency": found.costs["flops"]}
        return Measurement(
            widths, found.names, found.scores, found.dense, costs, {"latency": 27.0}, {}
        )

    def build(self, widths: Widths) -> tuple[nn.Module, Measurement]:
        return nn.Identity(), self.measure(widths)


class Device:
    """Measures what is predicted times the next of some factors."""

    def __init__(self, factors: Sequence[float]) -> None:
        self._factors: Iterator[float] = iter(factors)
        self.asked: list[float] = []

    def figures(self, network: object, dense_ms: float, pruned_ms: float) -> LatencyFigures:
        if network is None:
            return LatencyFigures("torch", "cpu", 1, (dense_ms, pruned_ms), None)
        self.asked.append(pruned_ms)
        factor = next(self._factors, None)
        if factor is None:
            raise KeyboardInterrupt
        measured = dense_ms, pruned_ms * factor
        return LatencyFigures("torch", "cpu", 1, (dense_ms, pruned_ms), measured)


def rounds(tmp_path: Path, factors: Sequence[float], strategy: Any = "random", **kept: Any) -> Any:
    known = Known(**kept)
    kinds = dict.fromkeys((RepairKind.ONE_SHOT, RepairKind.SEQUENTIAL), known)
    evaluators = SimpleNamespace(
        search=known,
        search_repair=RepairKind.ONE_SHOT,
        finalists=kinds,
        selection=kinds,
        on_mixed_images=False,
        stops_early=False,
        finalist_forwards=lambda repair: 1,
    )
    config = SimpleNamespace(
        budget="latency=15ms",
        trial_timeout=None,
        strategy=strategy,
        strategy_options={"sampler": None, "agent": None, "from_run": None},
    )
    context = SimpleNamespace(
        config=config,
        clock=Clock(0.0),
        progress=Progress(),
        reward=reward,
        limits=StageLimits(),
        step=lambda stage: lambda done, total: None,
    )
    tmp_path.mkdir(exist_ok=True)
    ledger = Ledger(SPACE, f"sqlite:///{tmp_path}/study.db")
    made: Any = Rounds(context, LocalExecutor(evaluators), ledger, Device(factors))  # type: ignore[arg-type]
    return made


def bounded(trials: int = 8) -> Any:
    posed = problem(trials)
    projection = Projection(SPACE, [Constraint(Milliseconds(), 15.0)])
    return type(posed)(**{**vars(posed), "projection": projection})


def test_a_winner_that_keeps_to_its_bound_ends_the_search(tmp_path: Path) -> None:
    search = rounds(tmp_path, [1.0])
    result = search.run(bounded())
    assert len(search.ledger) == 8 and search.verifier.asked == [
        result.finalist.measurement.costs["latency"]
    ]
    assert result.latency.measured_ms[1] <= 15.0


def test_a_miss_tightens_the_bound_and_the_search_goes_on(tmp_path: Path) -> None:
    search = rounds(tmp_path, [1.5, 1.0])
    result = search.run(bounded())
    first, second = search.verifier.asked
    assert first * 1.5 > 15.0 and second <= 15.0 * 0.99 / (first * 1.5 / 15.0)
    assert len(search.ledger) == 8 + 8  # a quarter of the trials, or as many as the fewest
    assert result.finalist.measurement.costs["latency"] == second


def test_a_resumed_search_goes_by_what_was_measured(tmp_path: Path) -> None:
    """Killed within the second round, it has that round's bound, whatever it would measure now."""
    whole = rounds(tmp_path / "whole", [1.5, 1.0])
    expected = whole.run(bounded())
    killed = rounds(tmp_path / "killed", [1.5])  # there is no second measurement
    with pytest.raises(KeyboardInterrupt):
        killed.run(bounded())
    resumed = rounds(tmp_path / "killed", [1.0])
    assert resumed.run(bounded()).latency == expected.latency
    assert resumed.verifier.asked == whole.verifier.asked[1:]
    assert list(resumed.ledger) == list(whole.ledger)


def test_a_miss_that_stays_is_handed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = rounds(tmp_path, [2.0**n for n in range(1, 9)])
    with caplog.at_level(logging.INFO, "autoprune"):
        result = search.run(bounded())
    assert result.finalist is not None
    said = [record.getMessage() for record in caplog.records]
    assert any("still missed" in one or "cannot be tightened" in one for one in said)


def test_a_search_in_which_nothing_succeeds_is_an_error(tmp_path: Path) -> None:
    search = rounds(tmp_path, [1.0], fails=True)
    with pytest.raises(
        RunError, match=r"no trial succeeded .*too large\); every trial is kept: resume"
    ):
        search.run(bounded(trials=3))


def test_what_auto_stands_for_is_written_down(tmp_path: Path) -> None:
    search = rounds(tmp_path, [1.0], strategy="auto")
    result = search.run(bounded())
    assert search.ledger.remarked("strategy", list[Any])[0] == result.strategy.name == "surrogate"


@pytest.mark.parametrize("by_name", [True, False])
def test_a_resumed_search_keeps_the_options_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
) -> None:
    def resumed() -> Any:
        search = rounds(tmp_path, [1.0], strategy="evolution" if by_name else EvolutionStrategy())
        return search.run(bounded()).strategy.config

    begun = resumed()
    later = replace(begun, children=begun.children + 1, growth=2.0)
    monkeypatch.setattr(EvolutionStrategy, "config", later)
    assert EvolutionStrategy().config == later
    assert resumed() == begun
