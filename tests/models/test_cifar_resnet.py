from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune.core.plugins import load_object
from autoprune.data import load_splits


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018), (110, 1_727_962)])
def test_parameters_as_published(root: Path, depth: int, parameters: int) -> None:
    model = load_object(f"{root}/experiments/models/cifar_resnet.py:resnet{depth}", "model")()
    assert sum(p.numel() for p in model.parameters()) == parameters


@torch.no_grad()
def test_the_trained_checkpoint_loads_and_classifies(root: Path, shared: Path) -> None:
    model = load_object(f"{root}/experiments/models/cifar_resnet.py:resnet20", "model")().eval()
    file = shared / "checkpoints" / "cifar_resnet20.th"
    state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    val = shared / "data" / "cifar10_val.npz"
    samples = load_splits(f"npz:{val}").train.take(range(200))
    assert (model(samples.inputs).argmax(1) == samples.targets).float().mean() > 0.88
