"""The winner measured beside the dense network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.cost.latency.conditions import Conditions
from autoprune.cost.latency.table import LatencyTable
from autoprune.profiling.verifier import Verifier

IMAGES = torch.randn(4, 3, 8, 8)


def network(width: int) -> nn.Module:
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 10, 1)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def table(stair_table: Any) -> LatencyTable:
    found: LatencyTable = stair_table(network(48), IMAGES)
    return found


def test_both_networks_are_measured_on_one_sample(stairs: Any, table: LatencyTable) -> None:
    backend, dense, pruned = stairs(Conditions(backend="stairs")), network(48), network(16)
    figures = Verifier(dense, IMAGES, table, backend).figures(pruned, 2.0, 1.0)
    expected = [float(backend.network(one, IMAGES[:1])()) for one in (dense, pruned)]
    assert figures.measured_ms == pytest.approx(expected)
    assert figures.predicted_ms == (2.0, 1.0) and figures.device == "staircase"
    assert figures.report()["verified"]


def test_networks_are_copied_for_backends_that_convert_in_place(
    stairs: Any, table: LatencyTable
) -> None:
    class Halving(stairs):  # type: ignore[misc]
        def network(self, model: nn.Module, inputs: Any) -> Any:
            run = super().network(model, inputs)
            model.half()
            return run

    dense, pruned = network(48), network(16)
    Verifier(dense, IMAGES, table, Halving(Conditions(backend="stairs"))).figures(pruned, 2.0, 1.0)
    assert all(one.dtype == torch.float32 for one in (*dense.parameters(), *pruned.parameters()))


@pytest.mark.parametrize("has_backend", [True, False])
def test_without_a_backend_or_a_network_nothing_is_measured(
    has_backend: bool, stairs: Any, table: LatencyTable
) -> None:
    backend = stairs(Conditions(backend="stairs")) if has_backend else None
    given = None if has_backend else network(16)
    figures = Verifier(network(48), IMAGES, table, backend).figures(given, 2.0, 1.0)
    assert figures.measured_ms is None and figures.report()["verified"] is False
