"""Evidence about small networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn

from autoprune.data import Samples
from autoprune.importance import Evidence
from autoprune.statistics.collect import collect_moments
from autoprune.statistics.moments import Moments
from autoprune.structure.tracing.trace import trace


class MakeEvidence(Protocol):
    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor | None = None,
        seed: int = 0,
        covariances: Mapping[str, Tensor] | None = None,
    ) -> Evidence: ...


@pytest.fixture(scope="session")
def evidence_of() -> MakeEvidence:
    """Evidence from samples; moments from them, too, or of known covariances and no mean."""

    def make(
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor | None = None,
        seed: int = 0,
        covariances: Mapping[str, Tensor] | None = None,
    ) -> Evidence:
        structure = trace(model.eval(), inputs)
        samples = Samples(inputs, labels)
        if covariances is None:
            moments = collect_moments(model, structure, samples, 0)
        else:
            moments = {
                weight: Moments(1000, torch.zeros(len(c), dtype=torch.float64), c.double())
                for weight, c in covariances.items()
            }
        return Evidence(model, structure, moments, samples, seed)

    return make
