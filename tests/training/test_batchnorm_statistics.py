"""A network whose BNs hold other statistics than their inputs' begins training as what it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.training.batchnorm_statistics import with_own_statistics

BATCHES = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(4)]


def network() -> Any:
    """Running statistics, gains and shifts are any: none is that of the inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4),
        nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5),
    ).eval()  # fmt: skip
    for norm in (model[1], model[4], model[8]):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)
    return model


def in_training(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = copy.deepcopy(model).train()(inputs)
    return outputs


def test_outputs_stay_and_statistics_are_those_of_the_inputs() -> None:
    model, inputs = network(), torch.cat(BATCHES)
    settled: Any = with_own_statistics(model, BATCHES)
    with torch.no_grad():
        torch.testing.assert_close(settled(inputs), model(inputs), rtol=1e-4, atol=1e-5)
        read = model[0](inputs)
    torch.testing.assert_close(settled[1].running_mean, read.mean((0, 2, 3)))
    torch.testing.assert_close(settled[1].running_var, read.var((0, 2, 3), correction=0))


def test_in_training_mode_it_is_the_same_network_on_all_that_was_read() -> None:
    model, inputs = network(), torch.cat(BATCHES)
    settled = with_own_statistics(model, BATCHES)
    expected = model(inputs)
    torch.testing.assert_close(in_training(settled, inputs), expected, rtol=1e-3, atol=1e-3)
    assert (in_training(model, inputs) - expected).abs().max() > 1


@pytest.mark.parametrize("tensor", ["1.weight", "1.bias", "1.running_mean", "1.running_var"])
def test_a_norm_with_a_frozen_tensor_stays(tensor: str) -> None:
    model = network()
    settled = with_own_statistics(model, BATCHES, {tensor}).state_dict()
    changed = {name for name, value in model.state_dict().items() if not value.equal(settled[name])}
    assert changed == {
        f"{norm}.{name}"
        for norm in (4, 8)
        for name in ("weight", "bias", "running_mean", "running_var")
    }


def test_norms_without_gains_or_statistics_stay() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)
    ).eval()
    settled = with_own_statistics(model, BATCHES)
    torch.testing.assert_close(settled.state_dict(), model.state_dict(), rtol=0, atol=0)


class Doubled(nn.BatchNorm2d):
    """Adds the running mean to its output: with other statistics it computes something else."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.running_mean is not None
        return super().forward(inputs) + self.running_mean[:, None, None]


def test_a_network_that_would_compute_something_else_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(4)).eval()
    assert with_own_statistics(model, BATCHES) is model


def test_a_norm_that_is_called_twice_computes_the_same() -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.running_var, 2.0, 4.0)
    model = nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm).eval()
    settled = with_own_statistics(model, BATCHES)
    torch.testing.assert_close(settled(BATCHES[1]), model(BATCHES[1]), rtol=1e-4, atol=1e-5)
    assert not settled[0].running_var.equal(norm.running_var)  # type: ignore[index, union-attr]
