"""Networks that specs name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import UsageError
from autoprune.models import MODEL_FORMS
from autoprune.models.loading import FORMS, load_model


def test_random_weights_are_always_the_same() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = (load_model("torchvision:squeezenet1_1") for _ in range(2))
    assert torch.equal(next(a.parameters()), next(b.parameters()))
    assert torch.equal(torch.get_rng_state(), before) and not a.training


def test_a_factory_keeps_its_own_network(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\nnet = nn.Linear(2, 2)\ndef make(): return net\n")
    one, other = (load_model(f"{file}:make") for _ in range(2))
    assert isinstance(one, nn.Linear) and one is not other and not one.training


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("demoo", "unknown model 'demoo': did you mean 'demo'"),
        ("demo:large", "unknown model 'demo:large'"),
        ("torchvision", "unknown model 'torchvision'"),
        ("torchvision:resnet81", "unknown model 'torchvision:resnet81': did you mean 'resnet"),
    ],
)
def test_mistaken_specs(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(spec)
    assert message in str(caught.value)


def test_what_is_no_network(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("def make(): return 3\n")
    with pytest.raises(UsageError, match=r"must return a torch\.nn\.Module, but returned"):
        load_model(f"{file}:make")


def test_every_form_has_a_loader() -> None:
    assert tuple(FORMS) == MODEL_FORMS


@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "r3d_18"]
)
def test_networks_of_other_tasks_come_without_a_download(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert isinstance(load_model(f"torchvision:{name}"), nn.Module)
