"""Wrappers are taken off; what cannot be cut is named in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.structure.wrappers import notes_on_wrappers, plain_network


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def test_wrappers_are_taken_off() -> None:
    model = network()
    assert plain_network(model) is model
    assert plain_network(nn.DataParallel(model)) is model
    assert plain_network(compiled(model)) is model
    assert plain_network(nn.DataParallel(compiled(model))) is model


@pytest.mark.parametrize(
    "kept",
    [torch.fx.symbolic_trace, torch.optim.swa_utils.AveragedModel],
    ids=["fx", "averaged"],
)
def test_python_networks_stay_as_they_are(kept: Any) -> None:
    model = kept(network())
    assert plain_network(model) is model


def with_part(make: Any) -> nn.Module:
    model = network()
    model[2] = make(model[2])
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [compiled, compiled_in_place, nn.DataParallel])
def test_wrapped_parts_are_plain_in_a_copy_that_shares_the_weights(make: Any) -> None:
    model = with_part(make)
    plain = plain_network(model)
    assert list(plain.state_dict()) == list(network().state_dict())
    assert type(plain[2]) is nn.Linear and plain[2]._compiled_call_impl is None
    assert plain[0].weight is model[0].weight and torch.equal(plain(EXAMPLE), model(EXAMPLE))
    assert type(model[2]) is type(make(nn.Linear(6, 3)))  # as it was
    assert list(notes_on_wrappers(model)) == [
        "searched, and returned, without wrapper or compilation: 2"
    ]


def test_a_whole_network_compiled_in_place_is_plain_in_a_copy() -> None:
    model = compiled_in_place(network())
    plain = plain_network(model)
    assert plain is not model and plain._compiled_call_impl is None
    assert model._compiled_call_impl is not None
    assert "the whole network" in next(notes_on_wrappers(model))


EXAMPLE = torch.randn(2, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(network()), "the network is a TorchScript module"),
        (lambda: torch.jit.trace(network(), EXAMPLE), "the network is a TorchScript module"),
        (
            lambda: torch.export.export(network(), (EXAMPLE,)).module(),
            "the network is a graph of operators .* pass the Python network that was exported",
        ),
        (lambda: with_part(lambda part: part.to("meta")), "'2.weight' is on the meta device"),
    ],
    ids=["script", "trace", "export", "no values"],
)
def test_what_cannot_be_cut_is_named(make: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        plain_network(make())
