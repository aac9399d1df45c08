"""Predicted and measured latencies of a dense network and its pruned version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LatencyFigures:
    """Latencies of the dense network and of the pruned one, in ms per run at batch 1.

    Attributes:
        backend: The name of the backend that they hold for.
        device: The name of the processor.
        threads: The threads of one run; None on a GPU.
        predicted_ms: (dense, pruned) by the latency table; None without one.
        measured_ms: (dense, pruned), measured in turn; None if the device is not at hand.
    """

    backend: str
    device: str
    threads: int | None
    predicted_ms: tuple[float, ...] | None
    measured_ms: tuple[float, ...] | None

    def report(self) -> dict[str, Any]:
        """Return `costs.latency` of `result.json`."""
        dense, pruned = self.measured_ms or (None, None)
        predicted_dense, predicted = self.predicted_ms or (None, None)
        return {
            "predicted_ms": predicted,
            "measured_ms": pruned,
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "predicted_dense_ms": predicted_dense,
            "measured_dense_ms": dense,
            "verified": None if self.predicted_ms is None else self.measured_ms is not None,
        }
