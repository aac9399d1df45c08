"""Evidence about small networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn

from autoprune.importance import Evidence
from autoprune.statistics.moments import Moments
from autoprune.testing.importance_contract import make_evidence


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
        evidence = make_evidence(model, inputs, labels, seed)
        if covariances is None:
            return evidence
        moments = {
            weight: Moments(1000, torch.zeros(len(c), dtype=torch.float64), c.double())
            for weight, c in covariances.items()
        }
        return replace(evidence, moments=moments)

    return make
