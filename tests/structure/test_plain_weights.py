"""Weights that modules compute become parameters of a copy, with the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from autoprune.errors import ModelError
from autoprune.structure.plain_weights import (
    computed_weights,
    notes_on_weights,
    with_plain_weights,
)

ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Centred(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean(0)


def masked(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", 0.5)
    prune.random_unstructured(module, "weight", 0.5)
    prune.l1_unstructured(module, "bias", 0.5)


WAYS: dict[str, Callable[[nn.Linear], Any]] = {
    "masks": masked,
    "weight norm by hook": weight_norm,
    "spectral norm by hook": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "two steps": lambda one: [
        register_parametrization(one, "weight", step) for step in (Centred(), nn.Tanh())
    ],
}


def network(change: Callable[[nn.Linear], Any]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    change(model[2])
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_plain_weights(way: str, is_trained: bool) -> None:
    model = network(WAYS[way])
    model(ROWS)  # leaves tensors with a graph, and estimates of spectral norms
    model[2].requires_grad_(is_trained)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = with_plain_weights(model)
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert not is_parametrized(plain[2]) and not plain[2]._forward_pre_hooks
    assert plain.training and plain[2].weight.requires_grad == is_trained
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.allclose(plain.eval()(ROWS), model.eval()(ROWS), atol=1e-6)


def test_nothing_to_do() -> None:
    model = network(lambda one: None)
    assert with_plain_weights(model) is model and not computed_weights(model)


def test_what_is_said() -> None:
    model = network(masked)
    parametrizations.weight_norm(model[0])
    assert list(notes_on_weights(model)) == [
        "what the parametrization WeightNorm computes is made permanent in the pruned network: "
        "0.weight",
        "what torch.nn.utils.prune computes is made permanent in the pruned network: 2.weight, "
        "2.bias",
    ]


def test_a_weight_that_cannot_be_computed() -> None:
    model = network(lambda one: register_parametrization(one, "weight", nn.Tanh()))
    model[2].parametrizations.weight[0] = nn.Linear(1, 1)
    with pytest.raises(ModelError, match="the parametrization Linear computes cannot be made"):
        with_plain_weights(model)
