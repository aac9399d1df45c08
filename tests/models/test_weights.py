"""Weights files: what a state dict holds besides finite parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import ModelError, UsageError
from autoprune.models.weights import load_weights


class Versioned(nn.Linear):
    """A layer that reads no tensors of an unknown version."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, notes: Any, *args: Any) -> None:
        if notes.get("version") not in (1, 2):
            raise TypeError("version should be 1 or 2")
        self.seen = notes["version"]
        super()._load_from_state_dict(state, prefix, notes, *args)


def network() -> nn.Sequential:
    model = nn.Sequential(Versioned(3, 2))
    model.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    return model


@pytest.mark.parametrize("wrapper", [lambda model: model, nn.DataParallel])
@pytest.mark.parametrize("version", [1, 2])
def test_versions_of_modules_are_those_of_the_file(
    wrapper: Any, version: int, tmp_path: Path
) -> None:
    state = wrapper(network()).state_dict()
    for path, notes in state._metadata.items():
        notes["version"] = version if path.endswith("0") else 1
    torch.save({"model": state}, tmp_path / "w.pt")
    model = network()
    load_weights(model, str(tmp_path / "w.pt"))
    assert model[0].seen == version


@pytest.mark.parametrize("notes", [None, 3, {"0": 3}])
def test_a_file_without_versions_takes_those_of_the_network(notes: Any, tmp_path: Path) -> None:
    state = network().state_dict()
    state._metadata = notes
    torch.save(state, tmp_path / "w.pt")
    model = network()
    load_weights(model, str(tmp_path / "w.pt"))
    assert model[0].seen == 2


def test_a_modules_own_complaint_is_one_line(tmp_path: Path) -> None:
    state = network().state_dict()
    state._metadata = {"0": {"version": "x"}}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="cannot be used: version should be 1 or 2"):
        load_weights(network(), str(tmp_path / "w.pt"))


def test_only_the_mask_may_be_infinite(tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.bias"][0] = -float("inf")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"NaN or infinity in '0\.bias'"):
        load_weights(network(), str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("net.pt", "did you mean 'nets.pt'"),
        ("0123456789_best_of_all.pt", "choose one of: large.pt, nets.pt"),
        ("net.safetensors", "no such file in '.*'[.]$"),  # nothing else is weights of that kind
        ("net", "no such file in '.*'[.]$"),
    ],
)
def test_weights_that_are_not_there(name: str, told: str, tmp_path: Path) -> None:
    for one in ("nets.pt", "large.pt", "net.toml", "README"):
        (tmp_path / one).touch()
    with pytest.raises(UsageError, match=told):
        load_weights(nn.Linear(2, 2), str(tmp_path / name))
