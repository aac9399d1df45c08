"""Measures the winner of a search beside the dense network, as its latency table was measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.core.allocator import settled_memory
from autoprune.cost.latency.figures import LatencyFigures
from autoprune.cost.latency.table import LatencyTable
from autoprune.data.forms import Inputs
from autoprune.profiling.backends.base import Backend
from autoprune.structure.inputs import sample
from autoprune.structure.surgery import deep_copy


@dataclass(frozen=True, eq=False)
class Verifier:
    """Measures pruned networks under the conditions of a latency table.

    Attributes:
        model: The dense network.
        inputs: One sample or more; one is used.
        table: The table that predicts latencies.
        backend: What measures; None if nothing does on this host.
    """

    model: nn.Module
    inputs: Inputs
    table: LatencyTable
    backend: Backend | None

    def figures(
        self, network: nn.Module | None, dense_ms: float, pruned_ms: float
    ) -> LatencyFigures:
        """Return predicted latencies and, where there is a backend, measured ones.

        Args:
            network: The pruned network; None leaves it unmeasured.
            dense_ms: The predicted latency of the dense network.
            pruned_ms: The predicted latency of the pruned network.
        """
        measured = None
        if self.backend is not None and network is not None:
            with settled_memory(), self.backend.session():
                # Copies, since a user's backend may convert a network in place.
                copies = [deep_copy(one) for one in (self.model, network)]
                inputs = sample(self.inputs, 1)
                runs = [self.backend.network(one, inputs) for one in copies]
                measured = tuple(timing.ms for timing in self.backend.measure(runs))
        own, device = self.table.conditions, self.table.origin.device
        return LatencyFigures(own.backend, device, own.threads, (dense_ms, pruned_ms), measured)
