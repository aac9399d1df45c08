"""The copy of a network that is verified: precision, perturbed weights, random forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.structure.prepared_network import in_float32, is_finite, prepare
from autoprune.structure.tracing.trace import trace

IMAGES = torch.ones(2, 3, 4, 4)


def zero_network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_weights_and_inputs_that_are_all_equal_are_perturbed_in_a_copy() -> None:
    model = zero_network()
    prepared = prepare(model, IMAGES)
    assert prepared.is_float64 and all(not p.any() for p in model.parameters())
    assert all(p.dtype == torch.float64 and p.all() for p in prepared.model.parameters())
    inputs: Any = prepared.inputs
    assert inputs.dtype == torch.float64 and len(inputs.unique()) > 1


def test_a_network_that_needs_float32_is_tested_as_it_is() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight.dtype != torch.float32:
                raise TypeError
            return super().forward(x)

    model = nn.Sequential(Single(3, 4), nn.Linear(4, 2)).eval()
    prepared = prepare(model, torch.ones(2, 3))
    assert prepared.model is model and not prepared.is_float64
    assert in_float32(prepared, trace(model, torch.ones(2, 3))) is None


def test_overflow_in_float32_leaves_float64() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double().eval()
    structure = trace(model, torch.ones(2, 3, dtype=torch.float64))
    prepared = prepare(model, torch.ones(2, 3))
    single = in_float32(prepared, structure)
    assert single is not None and next(single.model.parameters()).dtype == torch.float32
    with torch.no_grad():
        next(prepared.model.parameters()).fill_(1e200)
    assert in_float32(prepared, structure) is None


def test_a_lack_of_memory_is_no_reason_to_freeze() -> None:
    """It would freeze every group of a large network, and nobody would know why."""

    class Large(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(self.weight) < 4:
                try:
                    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
                except RuntimeError as error:
                    raise ValueError("it failed") from error
            return super().forward(x)

    model = nn.Sequential(Large(3, 4), nn.Linear(4, 2)).eval()
    structure = trace(model, torch.ones(2, 3))
    prepared = prepare(model, torch.ones(2, 3))
    with pytest.raises(ModelError, match=r"cannot be tested: out of memory .*give smaller ones"):
        prepared.difference(structure, {structure.groups[0].name: [0, 1]}, 2)


def test_a_random_forward_pass_is_told_apart() -> None:
    class Jitter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.Generator().seed() % 2**31  # out of reach of `DeterministicMode`

    plain, random = prepare(zero_network(), IMAGES), prepare(Jitter(), IMAGES)
    assert not plain.is_random and random.is_random


@pytest.mark.parametrize(
    ("values", "finite"), [([1.0, 2.0], True), ([torch.nan], False), ([torch.inf], False)]
)
def test_finite(values: list[float], finite: bool) -> None:
    assert is_finite(torch.tensor(values)) is finite
    assert is_finite(torch.tensor([1, 2]))
