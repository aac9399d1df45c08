"""What a search reports: the contents of `result.json` (keys are added, never renamed)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.evaluation.measurement import Measurement, Scores
from autoprune.strategy import Trial


@dataclass(frozen=True)
class Outcome:
    """What a search ended with.

    Attributes:
        winner: the winner's measurement on the selection split.
        sizes: units per group of the dense network.
        dense, pruned: scores on `split`.
        split: "test", or "selection" where there is no test split.
        latencies_ms: measured (dense, pruned), ms per sample.
        device: where they were measured.
    """

    winner: Measurement
    sizes: Sequence[int]
    dense: Scores
    pruned: Scores
    split: str
    latencies_ms: Sequence[float]
    device: str

    def report(self) -> dict[str, Any]:
        """Return the parts of the result that say what was gained."""
        return {
            "costs": self._costs(),
            "score": {
                "metric": "top1" if self.pruned.custom is None else "custom",
                "dense": self.dense.metric,
                "pruned": self.pruned.metric,
                "recovered": None,
                "split": self.split,
                "samples": self.pruned.samples or None,  # `evaluate` does not say how many
                "kl": self.pruned.kl,
                "loss": self.pruned.loss,
            },
            "widths": {
                name: [kept, size]
                for name, kept, size in zip(
                    self.winner.names, self.winner.widths, self.sizes, strict=True
                )
            },
        }

    def _costs(self) -> dict[str, Any]:
        dense_ms, pruned_ms = self.latencies_ms
        return {
            "dense": _cost_row(self.winner.dense_costs, dense_ms),
            "pruned": _cost_row(self.winner.costs, pruned_ms),
            "latency": {
                "predicted_ms": None,
                "measured_ms": pruned_ms,
                "backend": "torch",
                "device": self.device,
            },
        }


def _cost_row(costs: Mapping[str, float], latency_ms: float) -> dict[str, float | int | None]:
    return {
        "flops": round(costs["flops"]),
        "params": round(costs["params"]),
        "latency_ms": latency_ms,
        "memory_bytes": round(costs["memory"]),
    }


def frontier(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Return the trials that no other beats in both MACs and KL, by rising MACs."""
    seen = [
        (t.measurement.costs["flops"], t.measurement.scores.kl, t.measurement)
        for t in trials
        if t.measurement is not None and t.measurement.scores.kl is not None
    ]
    front: list[dict[str, Any]] = []
    for _, kl, one in sorted(seen, key=lambda row: row[:2]):
        if not front or kl < front[-1]["kl"]:
            widths = dict(zip(one.names, one.widths, strict=True))
            front.append({"costs": dict(one.costs), "kl": kl, "widths": widths})
    return front


def stage_seconds(trials: Iterable[Trial]) -> dict[str, float]:
    """Return the seconds that all evaluations spent, by stage."""
    seconds: dict[str, float] = {}
    for trial in trials:
        for stage, spent in (trial.measurement.seconds if trial.measurement else {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return seconds
